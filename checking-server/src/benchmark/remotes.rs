//! Servers whose answers are taken for honest ones.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use common::format::NumericFormat;
use engine::{Remote, RemoteConfig};
use tokio::time::timeout;
use url::Url;

use super::{SPEED, answers_of};
use crate::calibration::FORMATS;
use crate::traffic::{CONTEXT, Subject};

/// Requests that a server gets at once: enough for large batches.
const AT_ONCE: usize = 512;
/// Some servers answer them one after the other.
const PATIENCE: Duration = Duration::from_secs(1800);
/// For the first answer of all.
const FIRST: Duration = Duration::from_secs(120);

/// An OpenAI-compatible server of the claimed model that reports token ids, as `NAME[,FORMAT][,seeded]=URL`.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteStack {
    /// The claimed model's name there.
    pub name: String,
    /// Up to and including the version.
    pub base_url: Url,
    /// In which the server computes; f32 where nothing is said.
    pub format: NumericFormat,
    /// Whether it draws as the requests' seeds say.
    pub seeded: bool,
}

impl FromStr for RemoteStack {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, url) = text.split_once('=').ok_or(
            "it has no `=`: write NAME=URL, for example my-model=http://127.0.0.1:8000/v1",
        )?;
        let base_url: Url =
            url.parse().map_err(|error| format!("`{url}` is no address: {error}"))?;
        if !["http", "https"].contains(&base_url.scheme()) {
            return Err(format!("`{url}` is no address: it must begin with http:// or https://"));
        }
        let mut parts = what.split(',');
        let name = parts.next().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err("it lacks the model's name there, before the `=`".to_owned());
        }
        let mut stack = Self { name, base_url, format: NumericFormat::F32, seeded: false };
        for part in parts {
            match FORMATS.into_iter().find(|format| format.as_str() == part) {
                Some(format) => stack.format = format,
                None if part == "seeded" => stack.seeded = true,
                None => {
                    return Err(format!("`{part}` is none of f32, f16, bf16, q8_0 and seeded"));
                }
            }
        }
        Ok(stack)
    }
}

/// As it is given, but for the address.
impl fmt::Display for RemoteStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seeded = if self.seeded { ",seeded" } else { "" };
        write!(f, "{},{}{seeded}", self.name, self.format)
    }
}

/// Connects to servers and asks each of them once: what is wrong with one is found before everything is measured.
pub(super) async fn connect(
    stacks: &[RemoteStack],
    subject: &Subject,
    temperature: f64,
) -> anyhow::Result<Vec<Remote>> {
    let request = subject.requests(1, temperature, SPEED)?;
    let mut connected = Vec::new();
    for RemoteStack { name, base_url, .. } in stacks {
        let config = RemoteConfig {
            parallel: AT_ONCE,
            first_token_timeout: PATIENCE,
            total_timeout: PATIENCE,
            ..RemoteConfig::new(base_url.clone(), name, CONTEXT)
        };
        let answered = timeout(FIRST, async {
            let remote = Remote::connect(config).await?;
            answers_of(&remote, &request).await?;
            anyhow::Ok(remote)
        });
        let remote = answered.await.context("it did not answer in time").flatten();
        connected.push(remote.with_context(|| format!("{name} at {base_url}"))?);
    }
    Ok(connected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RemoteStack, String> {
        text.parse()
    }

    #[test]
    fn a_server_is_named_with_its_format_and_what_it_draws_by() {
        let plain = parse("qwen3:8b=http://127.0.0.1:8000/v1").unwrap();
        assert_eq!(plain.name, "qwen3:8b");
        assert_eq!(plain.base_url.as_str(), "http://127.0.0.1:8000/v1");
        assert_eq!((plain.format, plain.seeded), (NumericFormat::F32, false));
        let seeded = parse("gpu,bf16,seeded=http://127.0.0.1:8000/v1").unwrap();
        assert_eq!((seeded.format, seeded.seeded), (NumericFormat::Bf16, true));
        assert_eq!(seeded.to_string(), "gpu,bf16,seeded");
    }

    #[test]
    fn what_is_wrong_with_a_server_is_said() {
        for (text, problem) in [
            ("my-model", "it has no `=`"),
            ("=http://127.0.0.1:8000/v1", "it lacks the model's name"),
            ("my-model=nowhere", "`nowhere` is no address"),
            ("my-model=localhost:8000/v1", "`localhost:8000/v1` is no address: it must begin"),
            ("my-model,f64=http://127.0.0.1:8000/v1", "`f64` is none of f32, f16, bf16, q8_0"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(problem), "{error}");
        }
    }
}
