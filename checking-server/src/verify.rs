//! Re-computes the evidence against a miner.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use common::bundle::{Bundle, Telling, VERSION};
use common::checks::{Evidence, Verdict};
use common::evidence::{Flag, Process};
use engine::{NumberFormat, ReferencePass, SharedEngine};
use tasks::{Catalogue, Task};

use crate::app::{Standards, load_one, wanted};
use crate::judge::hypotheses::WITHOUT_SYSTEM;
use crate::judge::{Known, Standard, examine, judge, refuse, second_look};

/// Larger files are no evidence: sixteen answers of the longest kind fit.
const MOST_BYTES: u64 = 1 << 30;
/// How far two machines may be apart: qualities, and natural logarithms of e-values by their size.
const QUALITY: f64 = 0.02;
const LOG_E: f64 = 0.05;

/// What came of re-computing.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// For people.
    pub text: String,
    /// Answers whose verdict was found again, of all.
    pub confirmed: usize,
    pub answers: usize,
}

impl Verified {
    /// Whether all of it was found again.
    pub fn is_confirmed(&self) -> bool {
        self.answers > 0 && self.confirmed == self.answers
    }
}

/// Reads a bundle.
///
/// # Errors
/// If the file cannot be read or is none.
pub fn read(path: &Path) -> anyhow::Result<Bundle> {
    let unread = || format!("{} cannot be read", path.display());
    let size = std::fs::metadata(path).with_context(unread)?.len();
    ensure!(size <= MOST_BYTES, "{} is too large to be evidence: {size} bytes", path.display());
    let text = std::fs::read(path).with_context(unread)?;
    let bundle: Bundle = serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} is no evidence: write it with `validator evidence --write FILE`",
            path.display()
        )
    })?;
    ensure!(
        bundle.version == VERSION,
        "{} has version {}, this program knows {VERSION}: verify it with a checking server of its time",
        path.display(),
        bundle.version
    );
    Ok(bundle)
}

/// Computes every answer's verdict again, by the model that the catalogue names for the task.
///
/// # Errors
/// If the task or its model is not there, or the engine fails.
pub async fn verify(
    bundle: &Bundle,
    catalogue: &Catalogue,
    number_format: NumberFormat,
) -> anyhow::Result<Verified> {
    let Some(task) = catalogue.task(&bundle.task) else {
        bail!(
            "the catalogue has no task `{}`: name its catalogue in `tasks.catalogue`",
            bundle.task
        )
    };
    let models = wanted(std::slice::from_ref(&task.id), catalogue)?;
    let model = models.first().context("the task has no model")?;
    let engine = load_one(model, number_format).await?;
    let standard = Standards::new(number_format).of(task);
    let mut text = String::new();
    let (mut confirmed, mut process) = (0, Process::default());
    for (number, telling) in (1..).zip(&bundle.telling) {
        let ours = again(bundle, telling, task, &engine, &standard).await;
        let said = &telling.verdict;
        match ours {
            Ok(ours) if alike(&ours, said) => {
                confirmed += 1;
                process.push(&ours.evidence.e_values);
                let reason = ours.reasons.first().map_or("its quality is whole", String::as_str);
                let word = match said.evidence.repeated {
                    Some(_) => {
                        ", if tokens of it were given before, which is the validator's word alone"
                    }
                    None if looked_twice(&said.evidence) => {
                        ", if it was chance that chose it for a second look, which is the validator's word alone"
                    }
                    None => "",
                };
                let _ = writeln!(
                    text,
                    "answer {number}: as claimed{word}, quality {:.2}: {reason}",
                    ours.quality
                );
            }
            Ok(ours) if !names(&ours).eq(names(said)) => {
                let _ = writeln!(
                    text,
                    "answer {number}: NOT as claimed: it was judged by other hypotheses than this version's"
                );
            }
            Ok(ours) => {
                let _ = writeln!(
                    text,
                    "answer {number}: NOT as claimed: quality {:.2} and ln e {:.2} instead of {:.2} and {:.2}",
                    ours.quality, ours.evidence.log_e, said.quality, said.evidence.log_e
                );
            }
            Err(error) => {
                let _ = writeln!(text, "answer {number}: NOT as claimed: {error:#}");
            }
        }
    }
    let answers = bundle.telling.len();
    let alone = match process.flag() {
        Flag::Hard => "enough to settle it by themselves",
        Flag::Soft => "enough for suspicion by themselves",
        Flag::None => "not enough by themselves",
    };
    let _ = writeln!(
        text,
        "{confirmed} of {answers} answers of {} to {} are as claimed; ln e of these is {:.2}, {alone}. Claimed over {} answers: {:.2}, \
         `{}`",
        bundle.miner,
        bundle.task,
        process.log_e(),
        bundle.answers,
        bundle.log_e,
        bundle.hypothesis
    );
    Ok(Verified { text, confirmed, answers })
}

async fn again(
    bundle: &Bundle,
    telling: &Telling,
    task: &Task,
    engine: &SharedEngine,
    standard: &Standard,
) -> anyhow::Result<Verdict> {
    let check = &telling.check;
    ensure!(
        check.miner == bundle.miner && check.task == bundle.task,
        "it is about another miner or task"
    );
    let asked = common::openai::parse(task.kind, check.request.as_bytes(), task.limits())
        .map_err(|error| anyhow::anyhow!("the request is not one that this task takes: {error}"))?;
    let findings = examine(check, &asked, engine.model());
    if !findings.is_empty() {
        return Ok(refuse(findings));
    }
    let tokens = check.receipt.generated.tokens.clone();
    let pass = ReferencePass {
        likelihoods: !standard.seeded,
        ..ReferencePass::new(asked.generation.clone(), tokens)
    };
    let said = &telling.verdict.evidence;
    let second = match second_look(&asked.generation, &pass.tokens) {
        Some(pass) if looked_twice(said) => Some(engine.reference(pass).await?),
        _ => None,
    };
    let known = Known {
        reference: &engine.reference(pass).await?,
        without_system: second.as_ref(),
        // What other answers held cannot be computed again.
        repeated: said.repeated.clone(),
    };
    Ok(judge(check, &asked, engine.model(), known, standard)?)
}

/// Whether a verdict rests on a second look.
fn looked_twice(evidence: &Evidence) -> bool {
    evidence.e_values.iter().any(|e| e.hypothesis == WITHOUT_SYSTEM && e.log_e != 0.0)
}

/// What a verdict's answer was tested for.
fn names(verdict: &Verdict) -> impl Iterator<Item = &str> {
    verdict.evidence.e_values.iter().map(|e| e.hypothesis.as_str())
}

fn alike(ours: &Verdict, said: &Verdict) -> bool {
    let (own, their) = (&ours.evidence, &said.evidence);
    let near = |a: f64, b: f64| (a - b).abs() <= LOG_E * (1.0 + a.abs().max(b.abs()));
    (ours.quality - said.quality).abs() <= QUALITY
        && own.findings == their.findings
        && near(own.log_e, their.log_e)
        && names(ours).eq(names(said))
        && own.e_values.iter().zip(&their.e_values).all(|(own, their)| near(own.log_e, their.log_e))
}
