//! What honest stacks do on one model: measured, and kept in a file beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use common::format::NumericFormat;
use engine::{Engine, EngineError, Native, Reference, ReferencePass, TokenScore};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::judge::hypotheses::{SUSPECTS, WITHOUT_SYSTEM};
use crate::judge::logprobs::Strays;
use crate::judge::survival::Survival;
use crate::judge::{BadReference, Known, Null, Standard, judge, second_look};
use crate::traffic::{Given, Request, Subject, answers, each, threads};

/// Formats that are measured.
pub const FORMATS: [NumericFormat; 4] =
    [NumericFormat::F32, NumericFormat::F16, NumericFormat::Bf16, NumericFormat::Q8_0];
/// The file's name, beside the weights.
pub const FILE: &str = "calibration.json";
/// Confidence of each bound.
const CONFIDENCE: f64 = 0.95;
/// Standard errors for a one-sided bound of that confidence.
const ERRORS: f64 = 1.645;
/// The most that an answer's e-value counts, here as in [`common::evidence`].
const MOST: f64 = 1_000.0;
/// Seed of the requests.
const SEED: u64 = 1;
/// Likely tokens that are compared at each position.
const TOP: usize = 64;

/// The measured noise of honest stacks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    pub model: String,
    /// SHA-256 over the weights' files, in the order of their names.
    pub weights: String,
    /// When it was measured, in RFC 3339.
    pub made_at: String,
    pub temperature: f64,
    pub stacks: Vec<Stack>,
    /// One for each policy.
    pub nulls: Vec<Null>,
}

/// One honest stack against the reference in f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    pub format: NumericFormat,
    pub answers: usize,
    pub tokens: usize,
    /// Share of tokens that the reference draws as well.
    pub agreement: f64,
    /// Mean absolute difference of the log-probabilities, in nats.
    pub logprob_distance: f64,
    /// Pairs of likely tokens whose noise was compared.
    pub pairs: usize,
}

/// What one stack did.
struct Measured {
    stack: Stack,
    survival: Survival,
    strays: Strays,
    /// Answers that the fits have not seen.
    held_back: Vec<HeldBack>,
}

struct HeldBack {
    request: Request,
    given: Given,
    ours: Reference,
    without_system: Option<Reference>,
}

impl Calibration {
    /// Makes up requests, answers them in every format of the policies and compares with the reference in f32.
    ///
    /// # Errors
    /// If a model cannot be loaded or an engine fails.
    pub fn of(
        folder: &Path,
        policies: &[Vec<NumericFormat>],
        count: usize,
        temperature: f64,
        made_at: String,
        progress: impl Fn(&str),
    ) -> anyhow::Result<Self> {
        let subject = Subject::new(folder)?;
        let requests = subject.requests(count, temperature, SEED)?;
        Self::measure(&subject, folder, policies, &requests, made_at, progress)
    }

    /// For people: the stacks and the drift of each policy.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for Stack { format, answers, tokens, agreement, logprob_distance, .. } in &self.stacks {
            let _ = writeln!(
                text,
                "{format}: {answers} answers, {tokens} tokens, {:.3} % drawn alike, log-probabilities {logprob_distance:.6} nats \
                 apart on average",
                100.0 * agreement
            );
        }
        for null in &self.nulls {
            let worst = null.drift.values().copied().fold(0.0, f64::max);
            let names: Vec<_> = null.formats.iter().map(|format| format.as_str()).collect();
            let _ = writeln!(
                text,
                "{}: e-values are divided by up to {:.3} for what honest answers reach",
                names.join(", "),
                1.0 + worst
            );
        }
        text
    }

    /// Answers requests in every format of the policies and compares with the reference in f32.
    ///
    /// # Errors
    /// If a model cannot be loaded or an engine fails.
    pub(crate) fn measure(
        subject: &Subject,
        folder: &Path,
        policies: &[Vec<NumericFormat>],
        requests: &[Request],
        made_at: String,
        progress: impl Fn(&str),
    ) -> anyhow::Result<Self> {
        let reference = subject.load(NumericFormat::F32)?;
        let formats: BTreeSet<_> = policies.iter().flatten().copied().collect();
        let mut measured = BTreeMap::new();
        for format in formats {
            progress(&format!("calibrating: {format}"));
            let stack = subject.load(format)?;
            measured.insert(format, measure(&reference, &stack, format, requests)?);
        }
        let null = |formats: &Vec<NumericFormat>| null(subject, &reference, formats, &measured);
        Ok(Self {
            model: subject.task.model.clone(),
            weights: digest(folder)?,
            made_at,
            temperature: requests
                .first()
                .map_or(1.0, |one| one.asked.generation.sampling.temperature),
            nulls: policies.iter().map(null).collect::<anyhow::Result<_>>()?,
            stacks: measured.into_values().map(|measured| measured.stack).collect(),
        })
    }

    /// Reads the file beside a model. `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, is no calibration, or belongs to other weights.
    pub fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let again = "make it again with `checking-server calibrate`";
        let text =
            std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let calibration: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no calibration: {again}", path.display()))?;
        anyhow::ensure!(
            calibration.nulls.iter().all(Null::is_sound),
            "{} holds numbers that cannot be: {again}",
            path.display()
        );
        let lacking = |null: &Null| {
            SUSPECTS.iter().map(|suspect| suspect.name).find(|name| !null.knows(name))
        };
        if let Some(name) = calibration.nulls.iter().find_map(lacking) {
            anyhow::bail!("{} was made before `{name}` was tested for: {again}", path.display());
        }
        anyhow::ensure!(
            calibration.weights == digest(folder)?,
            "{} was made for other weights: {again}",
            path.display()
        );
        Ok(Some(calibration))
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let (path, part) = (folder.join(FILE), folder.join(format!("{FILE}.part")));
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        std::fs::write(&part, text)
            .with_context(|| format!("{} cannot be written", part.display()))?;
        std::fs::rename(&part, &path)
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    /// The standard of a policy, if it was measured.
    pub fn standard(&self, formats: &[NumericFormat]) -> Option<Standard> {
        let null = self.nulls.iter().find(|null| null.formats == formats)?;
        Some(Standard { null: Arc::new(null.clone()), calibrated: true, seeded: true })
    }
}

fn measure(
    reference: &Native,
    stack: &Native,
    format: NumericFormat,
    requests: &[Request],
) -> anyhow::Result<Measured> {
    let given = answers(stack, requests, |asked| asked)?;
    let (mut differences, mut seen, mut held_back) = (Vec::new(), Vec::new(), Vec::new());
    let (mut same, mut distance, mut tokens) = (0, 0.0, 0);
    let pairs: Vec<_> = (0..).zip(requests.iter().zip(given)).collect();
    let looked = each(&pairs, threads(), |(index, (request, given))| {
        let generation = request.asked.generation.clone();
        // Half of the answers make the bounds, the others tell what is left after them.
        let makes_bounds = index % 2 == 0;
        let pass = ReferencePass {
            top: TOP,
            likelihoods: !makes_bounds,
            ..ReferencePass::new(generation, given.tokens.clone())
        };
        let theirs = makes_bounds.then(|| stack.score(pass.clone())).transpose()?;
        let second = second_look(&pass.generation, &pass.tokens).filter(|_| !makes_bounds);
        let second = second.map(|pass| reference.score(pass)).transpose()?;
        Ok::<_, EngineError>((reference.score(pass)?, theirs, second))
    })?;
    for ((_, (request, given)), (ours, theirs, without_system)) in pairs.into_iter().zip(looked) {
        let reported = given.tokens.iter().zip(&given.logprobs);
        for (score, (&token, &logprob)) in ours.tokens.iter().zip(reported) {
            same += usize::from(score.drawn == token);
            distance += f64::from((score.logprob - logprob).abs());
            tokens += 1;
        }
        let Some(theirs) = theirs else {
            held_back.push(HeldBack { request: request.clone(), given, ours, without_system });
            continue;
        };
        for (ours, theirs) in ours.tokens.iter().zip(&theirs.tokens) {
            noise(ours, theirs, &mut differences);
        }
        seen.push(ours.tokens.into_iter().zip(given.logprobs).collect());
    }
    let count = tokens.max(1) as f64;
    Ok(Measured {
        stack: Stack {
            format,
            answers: requests.len(),
            tokens,
            agreement: same as f64 / count,
            logprob_distance: distance / count,
            pairs: differences.len(),
        },
        survival: Survival::measured(&differences, CONFIDENCE),
        strays: Strays::measured(&seen),
        held_back,
    })
}

/// How differently two stacks see the drawn token against each of its rivals.
fn noise(ours: &TokenScore, theirs: &TokenScore, differences: &mut Vec<f64>) {
    let find = |score: &TokenScore, token: u32| {
        score.top.iter().find(|(other, _)| *other == token).map(|(_, logprob)| f64::from(*logprob))
    };
    let difference = |token| Some(find(theirs, token)? - find(ours, token)?);
    let Some(drawn) = difference(ours.drawn) else { return };
    let rivals = ours.rivals.iter().filter_map(|rival| difference(rival.token));
    differences.extend(rivals.map(|rival| rival - drawn));
}

fn null(
    subject: &Subject,
    reference: &Native,
    formats: &[NumericFormat],
    measured: &BTreeMap<NumericFormat, Measured>,
) -> anyhow::Result<Null> {
    let stacks: Vec<_> = formats.iter().filter_map(|format| measured.get(format)).collect();
    let (first, others) = stacks.split_first().context("a policy permits no format")?;
    let mut null = Null {
        formats: formats.to_vec(),
        survival: others.iter().fold(first.survival.clone(), |all, one| all.or(&one.survival)),
        strays: others.iter().fold(first.strays.clone(), |all, one| all.or(&one.strays)),
        drift: BTreeMap::new(),
        drift_without_seeds: BTreeMap::new(),
    };
    let standard = Standard { null: Arc::new(null.clone()), calibrated: true, seeded: true };
    let unseeded = standard.clone().without_seeds();
    for stack in stacks {
        let of_each = |standard: &Standard| {
            let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
            for HeldBack { request, given, ours, without_system } in &stack.held_back {
                let check = subject.check(request, given);
                let known = Known { without_system: without_system.as_ref(), ..Known::of(ours) };
                let verdict = judge(&check, &request.asked, reference.model(), known, standard)?;
                for e in verdict.evidence.e_values {
                    if e.hypothesis == WITHOUT_SYSTEM && without_system.is_none() {
                        continue;
                    }
                    values.entry(e.hypothesis).or_default().push(e.log_e.exp().min(MOST));
                }
            }
            Ok::<_, BadReference>(values)
        };
        widen(&mut null.drift, &of_each(&standard)?);
        // Without a look at the draw, it is that of any other seed.
        widen(&mut null.drift_without_seeds, &of_each(&unseeded)?);
    }
    Ok(null)
}

/// Raises each hypothesis's drift to what one stack's answers ask for.
fn widen(drift: &mut BTreeMap<String, f64>, values: &BTreeMap<String, Vec<f64>>) {
    for suspect in SUSPECTS {
        let excess = values.get(suspect.name).map_or(0.0, |values| excess(values));
        let known = drift.entry(suspect.name.to_owned()).or_default();
        *known = known.max(excess);
    }
}

/// By how much the mean may exceed 1.
fn excess(values: &[f64]) -> f64 {
    let count = values.len().max(2) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean + ERRORS * (variance / count).sqrt() - 1.0).max(0.0)
}

/// SHA-256 over the weights' files, in the order of their names, lowercase hex.
///
/// # Errors
/// If they cannot be read.
pub fn digest(folder: &Path) -> anyhow::Result<String> {
    let mut names: Vec<_> = folder
        .read_dir()
        .with_context(|| format!("{} cannot be listed", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        let mut file =
            File::open(&name).with_context(|| format!("{} cannot be read", name.display()))?;
        std::io::copy(&mut file, &mut hash)?;
    }
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration(folder: &Path) -> Calibration {
        let formats = [NumericFormat::F32, NumericFormat::F16];
        let none: BTreeMap<_, _> =
            SUSPECTS.iter().map(|suspect| (suspect.name.to_owned(), 0.0)).collect();
        Calibration {
            model: "a model".to_owned(),
            weights: digest(folder).unwrap(),
            made_at: "2026-11-26T12:00:00Z".to_owned(),
            temperature: 1.0,
            stacks: vec![Stack {
                format: NumericFormat::F16,
                answers: 100,
                tokens: 5000,
                agreement: 0.999,
                logprob_distance: 0.001,
                pairs: 10_000,
            }],
            nulls: vec![Null {
                drift: none.clone(),
                drift_without_seeds: none,
                ..Null::assumed(&formats)
            }],
        }
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), "weights").unwrap();
        folder
    }

    #[test]
    fn what_is_written_is_read_and_counts_for_its_formats_only() {
        let folder = folder();
        assert_eq!(Calibration::read(folder.path()).unwrap(), None);
        let written = calibration(folder.path());
        written.write(folder.path()).unwrap();
        let read = Calibration::read(folder.path()).unwrap().unwrap();
        assert_eq!((&read.stacks, &read.made_at), (&written.stacks, &written.made_at));
        // JSON keeps numbers up to the last digit.
        let bound = |calibration: &Calibration| calibration.nulls[0].survival.bound(0.01);
        assert!((bound(&read) - bound(&written)).abs() < 1e-12);
        let formats = [NumericFormat::F32, NumericFormat::F16];
        assert!(read.standard(&formats).unwrap().calibrated);
        assert_eq!(read.standard(&formats[..1]), None);
        assert!(read.summary().contains("f16: 100 answers, 5000 tokens"), "{}", read.summary());
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused_and_says_what_to_do() {
        let folder = folder();
        let good = calibration(folder.path());
        let refused = |problem: &str| {
            let error = format!("{:#}", Calibration::read(folder.path()).unwrap_err());
            assert!(
                error.contains(problem) && error.contains("checking-server calibrate"),
                "{error}"
            );
        };
        std::fs::write(folder.path().join(FILE), "{}").unwrap();
        refused("is no calibration");
        let mut bad = good.clone();
        bad.nulls[0].drift.insert("seed".to_owned(), -1.0);
        bad.write(folder.path()).unwrap();
        refused("numbers that cannot be");
        let mut old = good.clone();
        old.nulls[0].drift_without_seeds.remove(WITHOUT_SYSTEM);
        old.write(folder.path()).unwrap();
        refused("was made before `without-system` was tested for");
        good.write(folder.path()).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), "other weights").unwrap();
        refused("made for other weights");
    }

    #[test]
    fn the_excess_is_an_upper_bound_of_what_the_mean_has_above_one() {
        assert_eq!(excess(&[0.5; 100]), 0.0);
        let values: Vec<f64> =
            (0..100).map(|index| if index % 2 == 0 { 0.0 } else { 4.0 }).collect();
        // The mean is 2, its standard error 0.2.
        assert!((excess(&values) - 1.33).abs() < 0.01, "{}", excess(&values));
    }
}
