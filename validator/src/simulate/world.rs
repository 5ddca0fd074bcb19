//! One simulated subnet: a field of honest miners and the one that is looked at, over simulated time.
//!
//! A discrete-event simulation. What is asked when, how it is counted, whose answers are checked, who gets users'
//! requests and what it all comes to is decided by the code that decides it in a running validator.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use common::{Hotkey, TaskId, Uid};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::backend::{Backend, Hardware, Left};
use super::ledger::{Checked, Ledger};
use super::strategy::{Admits, Miner, Sends, Variant, Writes};
use super::{PERIODS_PER_WEIGHTS, Setting};
use crate::network;
use crate::plan::{Declared, Probe, Probing, most_unanswered, schedule, typical_tokens};
use crate::routing::{Candidate, InHand, Router};
use crate::scoring::{Rules, Scores};
use crate::store::PeriodId;
use crate::suspicion::Suspicions;
use crate::tally::{ContenderId, FailureKind, Settled, Tallies, Tally, What};

/// How many miners a user's request is sent to at most, the next one after a refusal.
const TRIES: usize = 3;

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The first unit of an accepted answer is there.
    Begins { request: usize },
    /// An answer leaves a back end, if nothing has changed since this was predicted.
    Leaves { backend: usize, changes: u64 },
}

/// A miner of the simulation.
#[derive(Debug)]
struct Contender {
    id: ContenderId,
    miner: Miner,
    under_way: u32,
    last_asked: f64,
}

/// A request under way.
#[derive(Debug)]
struct Request {
    contender: usize,
    backend: usize,
    in_hand: Option<InHand>,
    burst: Option<u32>,
    max_tokens: u32,
    tokens: u32,
    work: f64,
    quality: f64,
    sent: f64,
    begun: f64,
}

/// The simulated subnet at one moment.
#[derive(Debug)]
struct World<'a> {
    setting: &'a Setting,
    task: TaskId,
    contenders: Vec<Contender>,
    backends: Vec<Backend>,
    tallies: Tallies,
    suspicions: Suspicions,
    router: Router,
    ledger: Ledger,
    /// When weights were set last.
    scores: Scores<Hotkey>,
    /// Of the last period.
    ended: BTreeMap<ContenderId, Tally>,
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    period_began: f64,
    planning: ChaCha8Rng,
    users: ChaCha8Rng,
    answering: ChaCha8Rng,
    checking: ChaCha8Rng,
}

/// The mean weight of the looked-at miner's hotkeys, over all times at which weights are set after the warm-up.
///
/// `seed` decides about the hardware of all, which is the same for all variants, and about everything random.
pub(super) fn income(setting: &Setting, rules: &Rules, variant: &Variant, seed: u64) -> f64 {
    let mut hardware = ChaCha8Rng::seed_from_u64(seed);
    let seconds = setting.period.as_secs_f64();
    let own = drawn_hardware(&mut hardware).times(variant.size);
    let field: Vec<_> = (0..setting.field).map(|_| drawn_hardware(&mut hardware)).collect();
    let miners = variant.miners(&own, seconds, setting.max_capacity);
    let looked_at = miners.len();
    let field_miners = field.iter().enumerate().flat_map(|(at, hardware)| {
        let mut miners = Variant::honest(1).miners(hardware, seconds, setting.max_capacity);
        miners.iter_mut().for_each(|miner| miner.backends = vec![variant.backends + at]);
        miners
    });
    let hardware = std::iter::repeat_n(own, variant.backends).chain(field.iter().copied());
    // What users ask for does not depend on what the looked-at miner makes of its hardware.
    let capacity: f64 = hardware.clone().map(|hardware| hardware.total).sum();
    let mut world = World::new(
        setting,
        rules,
        miners.into_iter().chain(field_miners),
        hardware.map(Backend::new).collect(),
        seed,
    );
    let users_per_second = capacity * setting.organic / setting.tokens_per_request;
    let (mut income, mut count) = (0.0, 0.0);
    for period in 0..setting.periods {
        let scored = world.begin_period(period);
        if scored && period >= setting.warm_up {
            income +=
                world.contenders.iter().take(looked_at).map(|own| world.weight(own)).sum::<f64>();
            count += 1.0;
        }
        world.run_period(period, users_per_second);
    }
    if count > 0.0 { income / count } else { 0.0 }
}

/// 30 to 150 units per second together and 20 to 60 for an answer alone: small and large, slow and fast ones.
fn drawn_hardware(rng: &mut impl Rng) -> Hardware {
    let between = |least: f64, most: f64, draw: f64| least * (most / least).powf(draw);
    let single = between(20.0, 60.0, rng.random());
    let total = between(30.0, 150.0, rng.random()).max(single);
    Hardware { total, single, prefill: between(0.1, 0.5, rng.random()) }
}

impl<'a> World<'a> {
    fn new(
        setting: &'a Setting,
        rules: &Rules,
        miners: impl Iterator<Item = Miner>,
        backends: Vec<Backend>,
        seed: u64,
    ) -> Self {
        let task = setting.task.clone();
        let contenders = miners
            .zip(0_u16..)
            .map(|(miner, name)| {
                let mut bytes = [0; 32];
                bytes[..2].copy_from_slice(&name.to_be_bytes());
                let id = ContenderId { hotkey: Hotkey::from_bytes(bytes), task: task.clone() };
                Contender { id, miner, under_way: 0, last_asked: f64::NEG_INFINITY }
            })
            .collect();
        let rng = |stream: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream);
            rng
        };
        Self {
            setting,
            ledger: Ledger::new(*rules, task.clone(), setting.period),
            scores: Scores { miners: BTreeMap::new() },
            task,
            contenders,
            backends,
            tallies: Tallies::default(),
            suspicions: Suspicions::default(),
            router: Router::default(),
            ended: BTreeMap::new(),
            requests: Vec::new(),
            free: Vec::new(),
            events: BinaryHeap::new(),
            period_began: 0.0,
            planning: rng(1),
            users: rng(2),
            answering: rng(3),
            checking: rng(4),
        }
    }

    /// Ends the running period and begins the next. Returns whether it is one at whose beginning weights are set.
    fn begin_period(&mut self, period: u64) -> bool {
        let seconds = self.setting.period.as_secs_f64();
        self.period_began = period as f64 * seconds;
        let now_ms = (self.period_began * 1000.0) as i64;
        let declared: BTreeMap<_, _> = self
            .contenders
            .iter()
            .filter_map(|contender| {
                let part = contender.miner.conduct.presence.part(period);
                Some((contender.id.clone(), contender.miner.declares(part)?))
            })
            .collect();
        let id = PeriodId(i64::try_from(period).unwrap_or(i64::MAX));
        if let Some((_, tallies)) = self.tallies.turn(id, &declared, seconds) {
            self.ledger.end_period(now_ms, &tallies);
            self.ended = tallies;
        }
        self.suspicions.keep_only(|id| declared.contains_key(id));
        let scored = period % PERIODS_PER_WEIGHTS == PERIODS_PER_WEIGHTS - 1;
        if scored {
            self.scores = self.ledger.score(now_ms, &declared);
        }
        let candidates = self.contenders.iter().zip(0_u16..).filter_map(|(contender, uid)| {
            let declared = *declared.get(&contender.id)?;
            let score = self.scores.miners.get(&contender.id.hotkey);
            let task = score.and_then(|score| score.tasks.get(&self.task));
            Some(Candidate {
                id: contender.id.clone(),
                contender: network::Contender {
                    uid: Uid(uid),
                    url: self.setting.nowhere.clone(),
                    declared,
                },
                score: task.map_or(0.0, |task| task.share.get()),
                quality: task.and_then(|task| task.quality()),
            })
        });
        self.router.turn();
        self.router.replace(candidates.collect());
        scored
    }

    /// By the last scoring.
    fn weight(&self, contender: &Contender) -> f64 {
        self.scores.miners.get(&contender.id.hotkey).map_or(0.0, |score| score.weight.get())
    }

    fn plan(&mut self, period: u64) -> Vec<Probe> {
        let typical = typical_tokens(self.setting.tokens_per_request, self.ended.values());
        let declared: Vec<_> = self
            .contenders
            .iter()
            .filter_map(|contender| {
                let part = contender.miner.conduct.presence.part(period);
                Some(Declared {
                    hotkey: contender.id.hotkey,
                    task: contender.id.task.clone(),
                    volume: contender.miner.declares(part)?,
                    tokens_per_request: typical,
                })
            })
            .collect();
        let probing = Probing::default();
        let probes = schedule(&declared, &probing, self.setting.period, &mut self.planning);
        self.tallies.plan_bursts(&probes);
        probes
    }

    fn run_period(&mut self, period: u64, users_per_second: f64) {
        let ends = self.period_began + self.setting.period.as_secs_f64();
        let mut probes = self.plan(period).into_iter().peekable();
        let mut next_user = self.period_began + self.gap(users_per_second);
        loop {
            let event =
                self.events.peek().map_or(f64::INFINITY, |Reverse((at, _))| f64::from_bits(*at));
            let probe = probes
                .peek()
                .map_or(f64::INFINITY, |probe| self.period_began + probe.at.as_secs_f64());
            let now = event.min(probe).min(next_user);
            if now >= ends {
                // Probes at the very end.
                match probes.next() {
                    Some(probe) => self.probe(ends, &probe),
                    None => break,
                }
            } else if now == event {
                if let Some(Reverse((_, event))) = self.events.pop() {
                    self.happen(now, event);
                }
            } else if now == probe {
                if let Some(probe) = probes.next() {
                    self.probe(now, &probe);
                }
            } else {
                self.user(now);
                next_user = now + self.gap(users_per_second);
            }
        }
    }

    /// Seconds until the next user's request: they come independently of each other.
    fn gap(&mut self, per_second: f64) -> f64 {
        -(1.0 - self.users.random::<f64>()).ln() / per_second.max(1e-9)
    }

    /// The most that an answer may have, and what it has.
    fn drawn_tokens(&mut self) -> (u32, u32) {
        let typical = self.setting.tokens_per_request;
        let most = typical * self.users.random_range(0.4..2.2667);
        let tokens = most * self.users.random_range(0.5..1.0);
        (most.round() as u32, tokens.round().max(1.0) as u32)
    }

    fn probe(&mut self, now: f64, probe: &Probe) {
        let Some(at) = self.contenders.iter().position(|own| own.id.hotkey == probe.hotkey) else {
            return;
        };
        let id = &self.contenders[at].id;
        if probe.burst.is_none() && self.tallies.take_organic(id) {
            return;
        }
        let setting = self.setting;
        let most = most_unanswered(
            self.contenders[at].miner.declared,
            setting.period,
            setting.tokens_per_request,
            Duration::from_secs_f64(setting.total_s),
        );
        if self.contenders[at].under_way >= most {
            self.refused(now, at, false, probe.burst, 0);
            return;
        }
        let (max_tokens, tokens) = self.drawn_tokens();
        self.ask(now, at, None, probe.burst, max_tokens, tokens);
    }

    fn user(&mut self, now: f64) {
        let (max_tokens, tokens) = self.drawn_tokens();
        let Some(routes) = self.router.of(&self.task) else { return };
        let (at_once, mut tried) = (Duration::from_secs_f64(now), Vec::new());
        while tried.len() < TRIES {
            let Some(route) = routes.choose(None, &tried, at_once, &mut self.users) else { break };
            tried.push(route.id.hotkey);
            let at = usize::from(route.uid().0);
            let in_hand = route.begin(at_once);
            if self.ask(now, at, Some(in_hand), None, max_tokens, tokens) {
                break;
            }
        }
    }

    /// A request that is refused, or not sent because the miner leaves too many unanswered.
    fn refused(&mut self, now: f64, at: usize, organic: bool, burst: Option<u32>, max_tokens: u32) {
        let id = &self.contenders[at].id;
        let at_once = Duration::from_secs_f64(now);
        self.tallies.under_way(id, max_tokens);
        let settled = Settled {
            organic,
            burst,
            max_tokens,
            started: at_once,
            ended: at_once,
            what: What::Refused,
            distorted: false,
        };
        self.tallies.settle(id, &settled);
    }

    /// Returns whether the miner accepts.
    fn ask(
        &mut self,
        now: f64,
        at: usize,
        in_hand: Option<InHand>,
        burst: Option<u32>,
        max_tokens: u32,
        tokens: u32,
    ) -> bool {
        let organic = in_hand.is_some();
        let contender = &mut self.contenders[at];
        let since_last = now - std::mem::replace(&mut contender.last_asked, now);
        let idlest = contender
            .miner
            .backends
            .iter()
            .copied()
            .min_by(|a, b| self.backends[*a].load().total_cmp(&self.backends[*b].load()));
        let Some(backend) = idlest else { return false };
        let busy = self.backends[backend].load() >= 1.0;
        let conduct = contender.miner.conduct;
        let admitted = match conduct.admits {
            Admits::All => true,
            Admits::InTime => self.backends[backend].load() < 2.0,
            Admits::WhileFast => !busy,
            Admits::Probes => {
                let usual = self.setting.tokens_per_request / contender.miner.declared
                    * self.setting.period.as_secs_f64();
                now - self.period_began < 60.0 || since_last < 1.5 * usual
            }
            Admits::Part(part) => self.answering.random::<f64>() < part,
        };
        if !admitted {
            if let Some(in_hand) = &in_hand {
                in_hand.refused(Duration::from_secs_f64(now));
            }
            self.refused(now, at, organic, burst, max_tokens);
            return false;
        }
        let cheap = match conduct.writes {
            Writes::Model => None,
            Writes::Mixed(cheap, part) => (self.answering.random::<f64>() < part).then_some(cheap),
            Writes::WhenBusy(cheap) => busy.then_some(cheap),
        };
        let ease = cheap.map_or(1.0, super::strategy::Cheap::work);
        // Honest answers differ from the checking server's own by rounding.
        let quality =
            if cheap.is_some() { 0.0 } else { 1.0 - 0.005 * self.answering.random::<f64>() };
        let begins = now + self.backends[backend].prefill() * ease;
        self.tallies.under_way(&contender.id, max_tokens);
        contender.under_way += 1;
        self.backends[backend].waiting += 1;
        let request = Request {
            contender: at,
            backend,
            in_hand,
            burst,
            max_tokens,
            tokens,
            work: f64::from(tokens) * ease,
            quality,
            sent: now,
            begun: begins,
        };
        let request = match self.free.pop() {
            Some(place) => {
                self.requests[place] = Some(request);
                place
            }
            None => {
                self.requests.push(Some(request));
                self.requests.len() - 1
            }
        };
        self.events.push(Reverse((begins.to_bits(), Event::Begins { request })));
        true
    }

    fn happen(&mut self, now: f64, event: Event) {
        let backend = match event {
            Event::Begins { request } => {
                let Some(begun) = &self.requests[request] else { return };
                let deadline = begun.sent + self.setting.total_s;
                self.backends[begun.backend].begin(now, request, begun.work, deadline);
                begun.backend
            }
            Event::Leaves { backend, changes } => {
                if self.backends[backend].changes != changes {
                    return;
                }
                let mut left = Vec::new();
                self.backends[backend].leave(now, &mut left);
                for left in left {
                    self.settle(now, left);
                }
                backend
            }
        };
        if let Some(next) = self.backends[backend].next() {
            let changes = self.backends[backend].changes;
            let at = next.max(now).to_bits();
            self.events.push(Reverse((at, Event::Leaves { backend, changes })));
        }
    }

    fn settle(&mut self, now: f64, left: Left) {
        let Some(request) = self.requests[left.request].take() else { return };
        self.free.push(left.request);
        let contender = &mut self.contenders[request.contender];
        contender.under_way = contender.under_way.saturating_sub(1);
        let what = match left.mean_arrival {
            Some(_) => What::Served { tokens: request.tokens },
            None => What::Failed(FailureKind::TooLate),
        };
        let settled = Settled {
            organic: request.in_hand.is_some(),
            burst: request.burst,
            max_tokens: request.max_tokens,
            started: Duration::from_secs_f64(request.sent),
            ended: Duration::from_secs_f64(now),
            what,
            distorted: false,
        };
        let counted = self.tallies.settle(&contender.id, &settled).is_some();
        if let Some(in_hand) = &request.in_hand {
            let first_token = match contender.miner.conduct.sends {
                Sends::AsItComes | Sends::FirstThenRest => request.begun,
                Sends::AtTheEnd => now,
            };
            match what {
                What::Served { tokens } => {
                    in_hand.first_token(Duration::from_secs_f64(first_token));
                    in_hand.succeeded(tokens);
                }
                What::Refused | What::Failed(_) | What::Void => in_hand.failed(settled.ended),
            }
        }
        let Some(mean_arrival) = left.mean_arrival else { return };
        let share = self.suspicions.share(&contender.id, self.setting.checking_share);
        if !counted || self.checking.random::<f64>() >= share {
            return;
        }
        let tokens = f64::from(request.tokens);
        let mean_arrival = match contender.miner.conduct.sends {
            Sends::AsItComes => mean_arrival,
            Sends::AtTheEnd => now,
            Sends::FirstThenRest => (request.begun + (tokens - 1.0) * now) / tokens,
        };
        let speed = tokens / (2.0 * (mean_arrival - request.sent)).max(1e-6);
        self.suspicions.judged(&contender.id, request.quality);
        let checked = Checked { quality: request.quality, speed, organic: settled.organic };
        self.ledger.checked(&contender.id, checked);
    }
}
