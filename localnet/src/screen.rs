//! What a person sees: one line per step, then a table. On a terminal the table is refreshed in place.

use std::io::{self, IsTerminal, Write};

use crossterm::cursor::MoveToPreviousLine;
use crossterm::queue;
use crossterm::terminal::{Clear, ClearType};

/// Where progress and the table go. Standard output is left to the result when that is JSON.
#[derive(Debug)]
pub struct Screen {
    out: Out,
    in_place: bool,
    /// Lines of the table that is on the screen.
    drawn: u16,
    last: String,
}

#[derive(Debug)]
enum Out {
    Standard(io::Stdout),
    Error(io::Stderr),
    Nowhere,
}

impl Screen {
    /// The screen; on standard error if standard output is for a program.
    pub fn new(output_is_for_a_program: bool) -> Self {
        let (out, in_place) = if output_is_for_a_program {
            (Out::Error(io::stderr()), false)
        } else {
            let out = io::stdout();
            let in_place = out.is_terminal();
            (Out::Standard(out), in_place)
        };
        Self { out, in_place, drawn: 0, last: String::new() }
    }

    /// Shows nothing, for tests.
    pub fn silent() -> Self {
        Self { out: Out::Nowhere, in_place: false, drawn: 0, last: String::new() }
    }

    /// One line that stays.
    ///
    /// # Errors
    /// If the output is closed.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.drawn = 0;
        self.write(&format!("{text}\n"))
    }

    /// The table as it is now: over the last one on a terminal, otherwise below it and only if it has changed.
    ///
    /// # Errors
    /// If the output is closed.
    pub fn table(&mut self, text: &str) -> io::Result<()> {
        if text == self.last && (!self.in_place || self.drawn > 0) {
            return Ok(());
        }
        text.clone_into(&mut self.last);
        // A line that wraps would be two on the screen.
        let columns = if self.in_place {
            crossterm::terminal::size().map_or(80, |(columns, _)| columns)
        } else {
            u16::MAX
        };
        let cut = |line: &str| line.chars().take(columns.into()).chain(['\n']).collect::<String>();
        let text: String = text.lines().map(cut).collect();
        let mut bytes = Vec::new();
        if self.in_place && self.drawn > 0 {
            queue!(bytes, MoveToPreviousLine(self.drawn), Clear(ClearType::FromCursorDown))?;
        }
        bytes.extend_from_slice(text.as_bytes());
        self.drawn = u16::try_from(text.lines().count()).unwrap_or(u16::MAX);
        self.put(&bytes)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.put(text.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.out {
            Out::Standard(out) => out.write_all(bytes).and_then(|()| out.flush()),
            Out::Error(out) => out.write_all(bytes).and_then(|()| out.flush()),
            Out::Nowhere => Ok(()),
        }
    }
}
