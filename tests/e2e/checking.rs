//! The checking server with its real engine, on the answers of honest and of dishonest miners.

use std::path::{Path, PathBuf};
use std::time::Instant;

use checking_server::{App, Config, Settings, verify};
use common::Keypair;
use common::bundle::{self, Bundle, Telling};
use common::checks::{
    Check, CheckBatch, CheckResult, CheckResults, Finding, MAX_BATCH, Outcome, Verdict,
};
use common::generation::Generation;
use common::openai::model_of;
use common::receipt::{Generated, Timings, request_digest};
use engine::{
    Embedded, EmbeddedConfig, Engine, NumberFormat, Purpose, Quantisation, ReferencePass,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tasks::Catalogue;
use tasks::synthetic::{self, Synthetic};
use tokio_util::sync::CancellationToken;

const ANSWERS: usize = 30;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

async fn load(model: &str, set: impl FnOnce(&mut EmbeddedConfig)) -> Embedded {
    let folder = repository().join("demo-model").join(model);
    let mut config = EmbeddedConfig::new(folder, model, Purpose::Generation);
    config.context = Some(1024);
    set(&mut config);
    Embedded::load(config, |_| {}).await.unwrap()
}

/// What the miner `Alice` answers to a request, if she runs this engine with these settings.
async fn answer(engine: &Embedded, request: &Synthetic, ran: Generation) -> Check {
    let answer = engine.generate(ran).await.unwrap().answer().await.unwrap();
    let task = model_of(request.body.as_bytes()).unwrap();
    let generated = Generated {
        task: task.clone(),
        request_digest: request_digest(request.body.as_bytes()),
        prompt_tokens: answer.prompt_tokens,
        tokens: answer.ids(),
        logprobs: answer.tokens.iter().map(|token| token.logprob).collect(),
        finish_reason: answer.finish_reason,
        timings: Timings::default(),
    };
    let alice = Keypair::development("Alice");
    Check {
        id: String::new(),
        task,
        miner: alice.hotkey(),
        request: request.body.clone(),
        text: answer.text,
        receipt: generated.sign(&alice),
    }
}

async fn answers(
    engine: &Embedded,
    requests: &[Synthetic],
    run: impl Fn(Generation) -> Generation,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for request in requests {
        checks.push(answer(engine, request, run(request.generation.clone())).await);
    }
    checks
}

/// The same answers with a change to each receipt's content, signed again.
fn signed_again(checks: &[Check], change: impl Fn(&mut Generated)) -> Vec<Check> {
    let alice = Keypair::development("Alice");
    let changed = checks.iter().cloned().map(|mut check| {
        change(&mut check.receipt.generated);
        check.receipt = check.receipt.generated.sign(&alice);
        check
    });
    changed.collect()
}

/// The log-probabilities that an honest miner would have reported for these tokens.
async fn forge_logprobs(checks: &[Check], requests: &[Synthetic]) -> Vec<Check> {
    let claimed = load("touchstone-demo-4m", |config| config.purpose = Purpose::Reference).await;
    let mut forged = Vec::new();
    for (check, request) in checks.iter().zip(requests) {
        let tokens = check.receipt.generated.tokens.clone();
        let pass = ReferencePass::new(request.generation.clone(), tokens);
        let reference = claimed.reference(pass).await.unwrap();
        let logprobs: Vec<_> = reference.tokens.iter().map(|score| score.logprob).collect();
        forged.extend(signed_again(std::slice::from_ref(check), |generated| {
            generated.logprobs.clone_from(&logprobs);
        }));
    }
    forged
}

struct Server {
    url: String,
    client: reqwest::Client,
}

impl Server {
    async fn verdicts(&self, checks: &[Check]) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for part in checks.chunks(MAX_BATCH) {
            let mut part = part.to_vec();
            for (index, check) in part.iter_mut().enumerate() {
                check.id = index.to_string();
            }
            let ids: Vec<_> = part.iter().map(|check| check.id.clone()).collect();
            let request = self.client.post(&self.url).json(&CheckBatch { checks: part });
            let results: CheckResults = request.send().await.unwrap().json().await.unwrap();
            assert_eq!(
                results.results.iter().map(|result| &result.id).collect::<Vec<_>>(),
                Vec::from_iter(&ids)
            );
            verdicts.extend(results.results.into_iter().map(|CheckResult { outcome, .. }| {
                match outcome {
                    Outcome::Verdict(verdict) => verdict,
                    Outcome::Unchecked { reason, .. } => panic!("unchecked: {reason}"),
                }
            }));
        }
        verdicts
    }

    /// Prints one line of the separation and returns the mean quality and the lowest.
    async fn measure(&self, name: &str, checks: &[Check]) -> (f64, f64) {
        let started = Instant::now();
        let verdicts = self.verdicts(checks).await;
        let milliseconds = 1000.0 * started.elapsed().as_secs_f64() / verdicts.len() as f64;
        let tokens: u32 = verdicts.iter().map(|verdict| verdict.evidence.tokens).sum();
        let per_token = |of: fn(&Verdict) -> f64| {
            verdicts
                .iter()
                .map(|verdict| of(verdict) * f64::from(verdict.evidence.tokens))
                .sum::<f64>()
                / f64::from(tokens)
        };
        let count = verdicts.len() as f64;
        let quality = verdicts.iter().map(|verdict| verdict.quality).sum::<f64>() / count;
        let lowest = verdicts.iter().map(|verdict| verdict.quality).fold(1.0, f64::min);
        let full = verdicts.iter().filter(|verdict| verdict.quality >= 1.0).count();
        let zero = verdicts.iter().filter(|verdict| verdict.quality <= 0.0).count();
        println!(
            "{name:28} {tokens:5} tokens  agreement {:6.2} %  deficit {:.4}  logprob distance {:.5}  ln e {:6.2}  \
             quality {quality:.3} (lowest {lowest:.2}, {full} full, {zero} zero of {}), {milliseconds:.1} ms each",
            100.0 * per_token(|verdict| verdict.evidence.seeded_agreement),
            per_token(|verdict| verdict.evidence.mean_deficit),
            per_token(|verdict| verdict.evidence.logprob_distance),
            verdicts.iter().map(|verdict| verdict.evidence.log_e).sum::<f64>() / count,
            verdicts.len(),
        );
        (quality, lowest)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_answers_are_told_from_a_siblings_and_from_tampered_ones() {
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        catalogue: repository().join("config/tasks.toml"),
        only: vec!["chat-demo".parse().unwrap()],
        ..Settings::read(None, Vec::new()).unwrap().config.unwrap()
    };
    let catalogue = Catalogue::load(&config.catalogue).unwrap();
    let task = catalogue.task(&config.only[0]).unwrap();
    let mut rng = StdRng::seed_from_u64(2);
    let requests: Vec<_> = (0..ANSWERS).map(|_| synthetic::request(task, &mut rng)).collect();

    let app = App::build(config).await.unwrap();
    let server = Server {
        url: format!("http://{}/v1/checks", app.local_addr()),
        client: reqwest::Client::builder().no_proxy().build().unwrap(),
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run_until(stop.clone().cancelled_owned()));

    let same = |generation: Generation| generation;
    let large = load("touchstone-demo-4m", |_| {}).await;
    let honest = answers(&large, &requests, same).await;
    let (_, lowest) = server.measure("honest, f32", &honest).await;
    assert_eq!(lowest, 1.0, "an honest f32 miner");

    let halves =
        load("touchstone-demo-4m", |config| config.number_format = NumberFormat::F16).await;
    let (_, lowest) = server.measure("honest, f16", &answers(&halves, &requests, same).await).await;
    assert_eq!(lowest, 1.0, "an honest f16 miner");

    let small = load("touchstone-demo-1m", |_| {}).await;
    let siblings = answers(&small, &requests, same).await;
    let (quality, _) = server.measure("sibling", &siblings).await;
    assert!(quality <= 0.1, "the sibling gets {quality}");
    let forged = forge_logprobs(&siblings, &requests).await;
    let (quality, _) = server.measure("sibling, forged logprobs", &forged).await;
    assert!(quality <= 0.5, "the sibling gets {quality} with forged log-probabilities");

    evidence_can_be_computed_again(&server, &catalogue, &siblings).await;

    // No bounds on these: docs/verification.md has the figures.
    let q8 =
        load("touchstone-demo-4m", |config| config.quantisation = Some(Quantisation::Q8_0)).await;
    server.measure("quantised, Q8_0", &answers(&q8, &requests, same).await).await;
    let q4 =
        load("touchstone-demo-4m", |config| config.quantisation = Some(Quantisation::Q4K)).await;
    server.measure("quantised, Q4K", &answers(&q4, &requests, same).await).await;
    let cooler = |mut generation: Generation| {
        generation.sampling.temperature *= 0.8;
        generation
    };
    server.measure("temperature x 0.8", &answers(&large, &requests, cooler).await).await;
    let reseeded = |mut generation: Generation| {
        generation.sampling.seed ^= 1;
        generation
    };
    server.measure("another seed", &answers(&large, &requests, reseeded).await).await;

    for (name, checks, expected) in tampered(&honest) {
        for verdict in server.verdicts(&checks).await {
            assert_eq!(verdict.quality, 0.0, "{name}: {verdict:?}");
            assert!(!verdict.reasons.is_empty(), "{name}");
            if let Some(expected) = &expected {
                assert!(verdict.evidence.findings.contains(expected), "{name}: {verdict:?}");
            }
        }
    }

    stop.cancel();
    running.await.unwrap().unwrap();
}

/// What a validator keeps of a flagged miner is confirmed by whoever has the model, and what was changed is not.
async fn evidence_can_be_computed_again(server: &Server, catalogue: &Catalogue, checks: &[Check]) {
    let checks = &checks[..6];
    let verdicts = server.verdicts(checks).await;
    assert!(verdicts.iter().all(|verdict| verdict.evidence.calibrated), "{verdicts:?}");
    let telling = checks.iter().cloned().zip(verdicts);
    let bundle = Bundle {
        version: bundle::VERSION,
        miner: checks[0].miner,
        task: checks[0].task.clone(),
        at_ms: 0,
        answers: 6,
        log_e: 20.0,
        hypothesis: "other-0.9".to_owned(),
        telling: telling.map(|(check, verdict)| Telling { check, verdict }).collect(),
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.json");
    std::fs::write(&path, serde_json::to_string(&bundle).unwrap()).unwrap();
    let read = verify::read(&path).unwrap();
    assert_eq!(read, bundle);
    let verified = verify::verify(&read, catalogue, NumberFormat::F32).await.unwrap();
    assert!(verified.is_confirmed(), "{}", verified.text);
    assert!(verified.text.contains("enough to settle it by themselves"), "{}", verified.text);

    let mut changed = bundle;
    changed.telling[0].verdict.quality = 1.0;
    changed.telling[1].check.request.push(' ');
    let verified = verify::verify(&changed, catalogue, NumberFormat::F32).await.unwrap();
    assert_eq!((verified.confirmed, verified.answers), (4, 6), "{}", verified.text);

    std::fs::write(&path, "{}").unwrap();
    let error = format!("{:#}", verify::read(&path).unwrap_err());
    assert!(error.contains("is no evidence"), "{error}");
}

/// Honest answers that somebody changed, and what must be found at least.
fn tampered(honest: &[Check]) -> Vec<(&'static str, Vec<Check>, Option<Finding>)> {
    let each = |change: &dyn Fn(&mut Check)| {
        honest
            .iter()
            .cloned()
            .map(|mut check| {
                change(&mut check);
                check
            })
            .collect::<Vec<_>>()
    };
    let another_token = |generated: &mut Generated| {
        let middle = generated.tokens.len() / 2;
        generated.tokens[middle] = if generated.tokens[middle] == 300 { 301 } else { 300 };
    };
    let mut others = honest.to_vec();
    others.rotate_left(1);
    let foreign: Vec<_> = honest
        .iter()
        .zip(others)
        .map(|(check, other)| Check { receipt: other.receipt, text: other.text, ..check.clone() })
        .collect();
    let vocabulary = |generated: &mut Generated| generated.tokens[0] = 1_000_000;
    vec![
        (
            "one token changed",
            each(&|check| another_token(&mut check.receipt.generated)),
            Some(Finding::BadSignature),
        ),
        (
            "one token changed and signed",
            signed_again(honest, another_token),
            Some(Finding::TextMismatch),
        ),
        ("text changed", each(&|check| check.text.push('!')), Some(Finding::TextMismatch)),
        (
            "logprobs replaced",
            signed_again(honest, |generated| generated.logprobs.fill(-2.5)),
            None,
        ),
        ("another request's receipt", foreign, Some(Finding::ForeignRequest)),
        (
            "another miner's signature",
            each(&|check| {
                check.receipt = check.receipt.generated.clone().sign(&Keypair::development("Bob"));
            }),
            Some(Finding::BadSignature),
        ),
        (
            "ids outside the vocabulary",
            signed_again(honest, vocabulary),
            Some(Finding::OutsideVocabulary { position: 0, token: 1_000_000 }),
        ),
        (
            "not a number",
            signed_again(honest, |generated| generated.logprobs[0] = f32::NAN),
            Some(Finding::ImpossibleLogprob { position: 0 }),
        ),
    ]
}
