//! How well honest and dishonest answers are told apart: measured, on a model at hand.

mod attacks;
mod baselines;
mod figures;
mod measured;
mod page;
mod remotes;
mod report;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use common::checks::Repeated;
use common::format::NumericFormat;
use engine::{
    Embedded, EmbeddedConfig, Engine, Native, NumberFormat, Purpose, Quantisation, ReferencePass,
};
use futures::{StreamExt, TryStreamExt, stream};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::calibration::{Calibration, FORMATS};
use crate::duplicates::Index;
use crate::judge::{Known, Standard, examine, judge, refuse, second_look};
use crate::traffic::{Given, Request, Subject, answers, each, load, threads};
use attacks::{Coarse, Tried, Workshop};
use baselines::Baselines;
use measured::{Case, Weighed};
use remotes::connect;
use report::{Cases, Speed};

pub use remotes::RemoteStack;
pub use report::Report;

/// Seeds of the requests, apart for each use: what calibrates is never what is measured. Those of the honest stacks count up from
/// here, so that no two stacks answer the same.
const CALIBRATION: u64 = 1;
const ATTACKED: u64 = 3;
const SPEED: u64 = 5;
const HONEST: u64 = 200;
const HELD_OUT: u64 = 400;
const REMOTE: u64 = 600;

/// Tokens from which an answer is a long one.
const LONG: usize = 64;

/// What to measure, and how thoroughly.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The claimed model's folder.
    pub model: PathBuf,
    /// A smaller model with the same tokenizer.
    pub sibling: PathBuf,
    pub temperature: f64,
    /// Answers per format that the calibration is made of.
    pub calibration: usize,
    /// Honest answers per stack.
    pub honest: usize,
    /// Honest answers per stack that is held out and computed here.
    pub held_out: usize,
    /// Honest answers per server.
    pub remote: usize,
    /// Answers per attack. Without any only honest stacks are measured.
    pub attacked: usize,
    /// Held out as well.
    pub remotes: Vec<RemoteStack>,
}

impl Plan {
    /// What measures the same again.
    pub(crate) fn command(&self) -> String {
        let temperature = match self.temperature == 1.0 {
            true => String::new(),
            false => format!(" --temperature {}", self.temperature),
        };
        let remotes = self.remotes.iter().map(|remote| format!(" --remote {remote}=URL"));
        let answers = match self.remotes.is_empty() {
            true => String::new(),
            false => format!(" --remote-answers {}", self.remote),
        };
        format!(
            "checking-server benchmark --model {} --sibling {}{temperature} --answers {} --honest {} --held-out {}{answers}{}",
            self.model.display(),
            self.sibling.display(),
            self.attacked,
            self.honest,
            self.held_out,
            remotes.collect::<String>()
        )
    }
}

/// The policies that are compared; the first one is that of the main tables.
pub(crate) fn policies() -> Vec<Vec<NumericFormat>> {
    use NumericFormat::{Bf16, F16, F32, Q8_0};
    vec![vec![F32, F16], vec![F32, F16, Bf16], vec![F32, F16, Bf16, Q8_0]]
}

/// Measures everything. Blocks for minutes; says what it does to `progress`.
///
/// # Errors
/// If a model cannot be loaded or an engine fails.
pub async fn run(plan: &Plan, made_at: String, progress: impl Fn(&str)) -> anyhow::Result<Report> {
    let subject = Subject::new(&plan.model)?;
    let connected = connect(&plan.remotes, &subject, plan.temperature).await?;
    let policies = policies();
    let requests = subject.requests(plan.calibration, plan.temperature, CALIBRATION)?;
    let calibration =
        Calibration::measure(&subject, &plan.model, &policies, &requests, made_at, &progress)?;
    let standards: Vec<Standard> =
        policies.iter().filter_map(|formats| calibration.standard(formats)).collect();
    let reference = subject.load(NumericFormat::F32)?;
    let bench = Bench {
        subject: &subject,
        reference: &reference,
        standards: &standards,
        temperature: plan.temperature,
        index: Mutex::default(),
    };

    let mut honest = Vec::new();
    for (seed, format) in (HONEST..).zip(FORMATS) {
        progress(&format!("honest answers: {format}"));
        let asked = subject.requests(plan.honest, plan.temperature, seed)?;
        let model = subject.load(format)?;
        let given = answers(&model, &asked, |asked| asked)?;
        honest.push(bench.case(
            &format!("{format}, computed here"),
            Some(format),
            false,
            &asked,
            &given,
        )?);
    }
    for (seed, (name, format, number_format)) in (HELD_OUT..).zip([
        ("f32, mistral.rs", NumericFormat::F32, NumberFormat::F32),
        ("f16, mistral.rs", NumericFormat::F16, NumberFormat::F16),
    ]) {
        let asked = subject.requests(plan.held_out, plan.temperature, seed)?;
        if asked.is_empty() {
            continue;
        }
        progress(&format!("honest answers: {name}"));
        let given = by_mistral(plan, number_format, None, &asked).await?;
        honest.push(bench.case(name, Some(format), true, &asked, &given)?);
    }
    let mut unseeded = Vec::new();
    for (seed, (stack, remote)) in (REMOTE..).zip(plan.remotes.iter().zip(&connected)) {
        progress(&format!("honest answers: {stack}"));
        let asked = subject.requests(plan.remote, plan.temperature, seed)?;
        let given = answers_of(remote, &asked).await.with_context(|| stack.to_string())?;
        let name = format!("{}, {}", stack.format, stack.name);
        let case = bench.case(&name, Some(stack.format), true, &asked, &given)?;
        let cases = if stack.seeded { &mut honest } else { &mut unseeded };
        cases.push(case);
    }

    let attacks =
        if plan.attacked > 0 { attacks(&bench, plan, &progress).await? } else { Vec::new() };

    progress("speed");
    let speed = Speed {
        at_once: reference.parallel(),
        seeded: bench.speed(&bench.standards[0])?,
        without_seeds: bench.speed(&bench.standards[0].clone().without_seeds())?,
    };
    let cases = Cases { honest, unseeded, attacks };
    Ok(Report::new(plan, &calibration, cases, speed))
}

/// Tries everything that dishonest miners may do.
async fn attacks(
    bench: &Bench<'_>,
    plan: &Plan,
    progress: &impl Fn(&str),
) -> anyhow::Result<Vec<Case>> {
    progress("attacks");
    let (asked, good) = attacked(bench.subject, bench.reference, plan)?;
    let mut coarse = Vec::new();
    for (name, forged, mixed, quantisation) in [
        ("int8 (q8_0)", "int8 (q8_0), forged log-probabilities", None, Quantisation::Q8_0),
        ("int4 (q4_0)", "int4 (q4_0), forged log-probabilities", None, Quantisation::Q4_0),
        (
            "int4 (q4k)",
            "int4 (q4k), forged log-probabilities",
            Some("a tenth int4 (q4k), the rest honest"),
            Quantisation::Q4K,
        ),
    ] {
        progress(&format!("answers of {name}, mistral.rs"));
        match by_mistral(plan, NumberFormat::F32, Some(quantisation), &asked).await {
            Ok(given) => coarse.push(Coarse { name, forged, mixed, given }),
            Err(error) => progress(&format!("left out: {name}: {error:#}")),
        }
    }
    let sibling = load(&plan.sibling, "the sibling", NumericFormat::F32)?;
    let mut workshop =
        Workshop { claimed: bench.reference, sibling: &sibling, rng: StdRng::seed_from_u64(6) };
    let mut attacks = Vec::new();
    workshop.all(&asked, &good, coarse, |tried| {
        progress(&format!("attack: {}", tried.name));
        let Tried { name, copied_from, requests, given } = tried;
        let is_copied = copied_from.is_some();
        for (request, given) in
            copied_from.iter().flat_map(|(asked, given)| asked.iter().zip(given))
        {
            bench.look(request, given);
        }
        let answers = bench.weigh_all(&requests, &given, is_copied)?;
        attacks.push(Case { name: name.to_owned(), format: None, held_out: false, answers });
        Ok(())
    })?;
    Ok(attacks)
}

/// The requests that attacks are tried on, and what an honest miner answers. Short answers say little, so up to half are
/// long ones, where there are as many.
fn attacked(
    subject: &Subject,
    reference: &Native,
    plan: &Plan,
) -> anyhow::Result<(Vec<Request>, Vec<Given>)> {
    const CHOICE: usize = 5;
    let pool = subject.requests(CHOICE * plan.attacked, plan.temperature, ATTACKED)?;
    let given = answers(reference, &pool, |asked| asked)?;
    let (mut long, mut short) = (Vec::new(), Vec::new());
    for pair in pool.into_iter().zip(given) {
        let kind = if pair.1.tokens.len() >= LONG { &mut long } else { &mut short };
        kind.push(pair);
    }
    long.truncate(plan.attacked / 2);
    short.truncate(plan.attacked - long.len());
    long.extend(short);
    Ok(long.into_iter().unzip())
}

/// What everything is weighed with.
struct Bench<'a> {
    subject: &'a Subject,
    reference: &'a Native,
    standards: &'a [Standard],
    temperature: f64,
    /// Every honest answer.
    index: Mutex<Index>,
}

impl Bench<'_> {
    fn case(
        &self,
        name: &str,
        format: Option<NumericFormat>,
        held_out: bool,
        requests: &[Request],
        given: &[Given],
    ) -> anyhow::Result<Case> {
        let answers = self.weigh_all(requests, given, true)?;
        Ok(Case { name: name.to_owned(), format, held_out, answers })
    }

    /// Attacks that change honest answers are not copies of them, so they are only compared with earlier ones on request.
    fn weigh_all(
        &self,
        requests: &[Request],
        given: &[Given],
        compared: bool,
    ) -> anyhow::Result<Vec<Weighed>> {
        let pairs: Vec<_> = (0..).zip(requests.iter().zip(given)).collect();
        each(&pairs, threads(), |(index, (request, given))| {
            self.weigh(request, given, *index, compared)
        })
    }

    /// One answer under every policy, and by the other systems.
    fn weigh(
        &self,
        request: &Request,
        given: &Given,
        index: u64,
        compared: bool,
    ) -> anyhow::Result<Weighed> {
        let check = self.subject.check(request, given);
        let model = self.reference.model();
        let findings = examine(&check, &request.asked, model);
        if !findings.is_empty() {
            let verdict = refuse(findings);
            return Ok(Weighed {
                verdicts: vec![verdict; self.standards.len() + 1],
                tokens: given.tokens.len(),
                baselines: None,
            });
        }
        let generation = request.asked.generation.clone();
        let pass = ReferencePass {
            top: 20,
            likelihoods: true,
            ..ReferencePass::new(generation, given.tokens.clone())
        };
        let reference = self.reference.score(pass)?;
        // As often as the server does it where a third of the requests have such messages, as those of validators.
        let second =
            second_look(&request.asked.generation, &given.tokens).filter(|_| index % 4 < 2);
        let second = second.map(|pass| self.reference.score(pass)).transpose()?;
        let known = Known { without_system: second.as_ref(), ..Known::of(&reference) };
        let mut verdicts = self
            .standards
            .iter()
            .map(|standard| judge(&check, &request.asked, model, known.clone(), standard))
            .collect::<Result<Vec<_>, _>>()?;
        // The first policy once more, without a look at the draw.
        let unseeded = self.standards[0].clone().without_seeds();
        let repeated = if compared { self.look(request, given) } else { None };
        let known = Known { repeated, ..known };
        verdicts.push(judge(&check, &request.asked, model, known, &unseeded)?);
        let baselines = Baselines::of(
            given,
            &reference.tokens,
            self.temperature,
            &mut StdRng::seed_from_u64(index),
        );
        Ok(Weighed { verdicts, tokens: given.tokens.len(), baselines: Some(baselines) })
    }

    /// What an answer has in common with earlier ones; it is one of them from now on.
    fn look(&self, request: &Request, given: &Given) -> Option<Repeated> {
        let generated = self.subject.check(request, given).receipt.generated;
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.look(&request.asked, &generated)
    }

    /// Checks of answers of about 100 tokens per second, as many at once as a server does: the best of several rounds, since
    /// whatever else runs on the machine only slows them down.
    fn speed(&self, standard: &Standard) -> anyhow::Result<f64> {
        const TOKENS: usize = 100;
        const ROUNDS: usize = 5;
        let requests = self.subject.requests(40, self.temperature, SPEED)?;
        let given = answers(self.reference, &requests, |mut asked| {
            let ends = &self.reference.model().end_tokens;
            asked.adjustment.bias = ends.iter().map(|end| (*end, -100.0)).collect();
            asked.max_tokens = TOKENS as u32;
            asked
        })?;
        let pairs: Vec<_> = requests.iter().zip(&given).collect();
        let mut best: f64 = 0.0;
        for _ in 0..ROUNDS {
            let started = Instant::now();
            each(&pairs, self.reference.parallel(), |(request, given)| {
                let check = self.subject.check(request, given);
                let model = self.reference.model();
                let findings = examine(&check, &request.asked, model);
                anyhow::ensure!(findings.is_empty(), "an honest answer is found to be wrong");
                let pass = ReferencePass {
                    likelihoods: !standard.seeded,
                    ..ReferencePass::new(request.asked.generation.clone(), given.tokens.clone())
                };
                let reference = self.reference.score(pass)?;
                Ok(judge(&check, &request.asked, model, Known::of(&reference), standard)?)
            })?;
            best = best.max(requests.len() as f64 / started.elapsed().as_secs_f64());
        }
        Ok(best)
    }
}

/// What mistral.rs answers.
async fn by_mistral(
    plan: &Plan,
    number_format: NumberFormat,
    quantisation: Option<Quantisation>,
    requests: &[Request],
) -> anyhow::Result<Vec<Given>> {
    let config = EmbeddedConfig {
        number_format,
        quantisation,
        ..EmbeddedConfig::new(&plan.model, "held out", Purpose::Generation)
    };
    answers_of(&Embedded::load(config, |_| {}).await?, requests).await
}

/// What an engine answers, to as many requests at once as it takes.
async fn answers_of(engine: &dyn Engine, requests: &[Request]) -> anyhow::Result<Vec<Given>> {
    let answers = requests.iter().map(|request| async {
        Ok(Given::from(engine.generate(request.asked.generation.clone()).await?.answer().await?))
    });
    stream::iter(answers).buffered(engine.parallel()).try_collect().await
}
