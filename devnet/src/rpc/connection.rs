//! One client's connection: it can be cut at any moment, and is cut when its client does not read.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a client may not read while something waits to be sent. What waits until then is a few dozen messages.
const UNREAD: Duration =
    if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(10) };

/// The path that is spared by faults, so that they can be ordered and ended.
pub(crate) const CONTROL: &str = "/control";

/// A handle of a connection.
#[derive(Debug, Clone)]
pub(super) struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cut: CancellationToken,
    control: AtomicBool,
}

impl Connection {
    /// A connection, and its socket as it is to be served.
    pub(super) fn new(socket: TcpStream) -> (Self, Cuttable) {
        let connection = Self(Arc::new(Inner {
            cut: CancellationToken::new(),
            control: AtomicBool::new(false),
        }));
        let cut = || Box::pin(connection.0.cut.clone().cancelled_owned());
        let (cut_read, cut_write) = (cut(), cut());
        let connection_too = connection.clone();
        let cuttable =
            Cuttable { socket, cut_read, cut_write, stuck: None, connection: connection_too };
        (connection, cuttable)
    }

    /// Cuts it, whatever is on its way.
    pub(super) fn cut(&self) {
        self.0.cut.cancel();
    }

    /// Says that faults do not concern it.
    pub(super) fn spare(&self) {
        self.0.control.store(true, Ordering::Relaxed);
    }

    /// Whether faults do not concern it.
    pub(super) fn is_spared(&self) -> bool {
        self.0.control.load(Ordering::Relaxed)
    }
}

/// All connections that are open.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Vec<Weak<Inner>>,
    /// The length at which closed ones are looked for.
    tidy_at: usize,
}

impl Connections {
    /// Remembers a connection until it is closed.
    pub(super) fn add(&mut self, connection: &Connection) {
        if self.open.len() >= self.tidy_at {
            self.open.retain(|inner| inner.strong_count() > 0);
            self.tidy_at = 2 * self.open.len() + 64;
        }
        self.open.push(Arc::downgrade(&connection.0));
    }

    /// Cuts all that faults concern.
    pub(super) fn cut_clients(&mut self) {
        self.cut(|connection| !connection.is_spared());
    }

    /// Cuts all.
    pub(super) fn cut_all(&mut self) {
        self.cut(|_| true);
    }

    fn cut(&mut self, which: impl Fn(&Connection) -> bool) {
        self.open.retain(|inner| {
            let Some(connection) = inner.upgrade().map(Connection) else { return false };
            let cut = which(&connection);
            if cut {
                connection.cut();
            }
            !cut
        });
    }
}

/// A socket that breaks when its connection is cut.
#[derive(Debug)]
pub(super) struct Cuttable {
    socket: TcpStream,
    /// One for each direction: two tasks wait, and each such future wakes one.
    cut_read: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_write: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Runs while the client does not read.
    stuck: Option<Pin<Box<Sleep>>>,
    connection: Connection,
}

impl Cuttable {
    fn check_read(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut_read.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => self.broken(context),
        }
    }

    fn check_write(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut_write.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => self.broken(context),
        }
    }

    fn broken(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        // The client should know at once, whoever still holds this.
        let _ = Pin::new(&mut self.socket).poll_shutdown(context);
        Err(io::ErrorKind::ConnectionReset.into())
    }

    fn written<T>(
        &mut self,
        result: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stuck = None;
            return result;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(UNREAD)));
        if stuck.as_mut().poll(context).is_ready() {
            self.connection.cut();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_read(context)?;
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_write(context)?;
        let result = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.written(result, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_write(context)?;
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
