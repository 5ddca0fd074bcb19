//! What miners do: the honest ones, and those that would like to earn more than they serve.

use common::Volume;

use super::backend::Hardware;

/// A miner and everything that it declares and does.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Miner {
    /// Units per period.
    pub(super) declared: f64,
    /// Which of its owner's back ends answer for it: always the idlest.
    pub(super) backends: Vec<usize>,
    pub(super) conduct: Conduct,
}

/// How a miner treats requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Conduct {
    pub(super) admits: Admits,
    pub(super) writes: Writes,
    pub(super) sends: Sends,
    pub(super) presence: Presence,
}

/// Which requests are answered. The others are refused with 429.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Admits {
    All,
    /// Until there is twice as much under way as the hardware serves at full speed: an answer takes twice as long then,
    /// and one that would take longer might come too late.
    InTime,
    /// While the hardware serves at full speed.
    WhileFast,
    /// The first ones of a period, and those that follow the last one as closely as the declared rate makes a burst.
    Probes,
    /// This part, at random.
    Part(f64),
}

/// Where answers come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Writes {
    Model,
    /// This part of them from something cheaper.
    Mixed(Cheap, f64),
    /// From something cheaper when the hardware is busy.
    WhenBusy(Cheap),
}

/// What is cheaper than the model, and worth nothing to a checking server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cheap {
    /// Any text, as fast as it can be sent.
    Garbage,
    /// A model that is four times as fast.
    SmallModel,
}

impl Cheap {
    /// The part of the model's work that an answer takes.
    pub(super) fn work(self) -> f64 {
        match self {
            Self::Garbage => 0.001,
            Self::SmallModel => 0.25,
        }
    }
}

/// When the text of an answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sends {
    AsItComes,
    /// The first token at once, then nothing, and the rest at the end.
    FirstThenRest,
    /// Everything at the end.
    AtTheEnd,
}

/// When a miner is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Always,
    /// The last `on` periods of every `cycle`.
    Last {
        on: u64,
        cycle: u64,
    },
    /// The same, but with a declaration of nothing, or of next to nothing, when it is away.
    LastDeclaringNothing {
        on: u64,
        cycle: u64,
    },
    LastDeclaringLittle {
        on: u64,
        cycle: u64,
    },
}

/// Whether a miner takes part in a period, the first being 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    There,
    DeclaresLittle,
    DeclaresNothing,
    Away,
}

impl Miner {
    /// What it declares for a period; `None` if it is not there.
    pub(super) fn declares(&self, part: Part) -> Option<Volume> {
        let volume = match part {
            Part::There => self.declared,
            Part::DeclaresLittle => self.declared / 100.0,
            Part::DeclaresNothing => 0.0,
            Part::Away => return None,
        };
        Some(Volume::try_from(volume).unwrap_or_default())
    }
}

impl Presence {
    pub(super) fn part(self, period: u64) -> Part {
        match self {
            Self::Always => Part::There,
            Self::Last { on, cycle }
            | Self::LastDeclaringNothing { on, cycle }
            | Self::LastDeclaringLittle { on, cycle }
                if period % cycle + on >= cycle =>
            {
                Part::There
            }
            Self::Last { .. } => Part::Away,
            Self::LastDeclaringNothing { .. } => Part::DeclaresNothing,
            Self::LastDeclaringLittle { .. } => Part::DeclaresLittle,
        }
    }
}

const HONEST: Conduct = Conduct {
    admits: Admits::InTime,
    writes: Writes::Model,
    sends: Sends::AsItComes,
    presence: Presence::Always,
};

/// A way to run hardware: honestly, or with a strategy and its parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Variant {
    pub(super) hotkeys: usize,
    /// Back ends of the same kind, and how many times the drawn hardware each is.
    pub(super) backends: usize,
    pub(super) size: f64,
    /// Whether requests go to the idlest of all back ends, or those to each hotkey to one of its own.
    pub(super) pooled: bool,
    /// What each hotkey declares, relative to one back end; endless is the most that the task allows.
    pub(super) declares: f64,
    pub(super) conduct: Conduct,
}

impl Variant {
    /// So many miners that have a back end of their own each and declare what it can do.
    pub(super) fn honest(miners: usize) -> Self {
        Self {
            hotkeys: miners,
            backends: miners,
            size: 1.0,
            pooled: false,
            declares: 1.0,
            conduct: HONEST,
        }
    }

    /// The same, but requests are passed to whichever back end is idlest.
    fn pool(miners: usize) -> Self {
        Self { pooled: true, ..Self::honest(miners) }
    }

    /// The miners on back ends like this one. `most` is the most that may be declared per period of so many seconds.
    pub(super) fn miners(&self, hardware: &Hardware, seconds: f64, most: f64) -> Vec<Miner> {
        (0..self.hotkeys)
            .map(|at| Miner {
                declared: (hardware.total * seconds * self.declares).min(most),
                backends: if self.pooled { (0..self.backends).collect() } else { vec![at] },
                conduct: self.conduct,
            })
            .collect()
    }
}

/// A variant of a strategy, and what its income is compared with: the same hardware run honestly.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trial {
    /// The parameter in words.
    pub(super) with: String,
    pub(super) variant: Variant,
    pub(super) honest: Variant,
}

/// One miner on one back end against an honest one.
fn alone(with: impl Into<String>, declares: f64, conduct: Conduct) -> Trial {
    let honest = Variant::honest(1);
    Trial { with: with.into(), variant: Variant { declares, conduct, ..honest.clone() }, honest }
}

/// A strategy: several variants, of which an attacker would choose the one that pays best.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Strategy {
    pub(super) name: &'static str,
    pub(super) does: &'static str,
    pub(super) trials: Vec<Trial>,
}

const REFUSES_WHEN_BUSY: Conduct = Conduct { admits: Admits::WhileFast, ..HONEST };

/// All strategies.
pub(super) fn strategies() -> Vec<Strategy> {
    vec![
        Strategy {
            name: "over-declaring capacity",
            does: "declares more than its hardware serves, and accepts everything or refuses a part of it",
            trials: over_declaring(),
        },
        Strategy {
            name: "answering only probes",
            does: "cannot tell probes from users' requests, so it answers what looks like a probe: the first minute of a \
                   period, and requests that follow each other like a burst; it refuses the others",
            trials: [1.0, 2.0]
                .map(|times| {
                    let conduct = Conduct { admits: Admits::Probes, ..HONEST };
                    alone(declares(times), times, conduct)
                })
                .into(),
        },
        Strategy {
            name: "refusing everything beyond a trickle",
            does: "answers a part of the requests and refuses the others",
            trials: [(0.1, 1.0), (0.5, 1.0), (0.8, 1.0), (0.1, f64::INFINITY), (0.5, 2.0)]
                .map(|(part, times)| {
                    let conduct = Conduct { admits: Admits::Part(part), ..HONEST };
                    let with = format!("answers {:.0} %, {}", part * 100.0, declares(times));
                    alone(with, times, conduct)
                })
                .into(),
        },
        Strategy {
            name: "serving fast garbage",
            does: "sends any text at once: always, for a part of the answers, or when its hardware is busy; declares what \
                   that makes it able to serve",
            trials: cheap(Cheap::Garbage, &[0.05, 0.1, 0.25, 0.5, 1.0]),
        },
        Strategy {
            name: "serving a small model",
            does: "answers, or a part of them, come from a model that is four times as fast; declares what that makes it \
                   able to serve",
            trials: cheap(Cheap::SmallModel, &[0.05, 0.1, 0.25, 0.5, 1.0]),
        },
        Strategy {
            name: "burst-and-stall streaming",
            does: "sends the first token at once, stalls, and sends the rest at the end; or everything at the end",
            trials: [
                ("the first token, then the rest", Sends::FirstThenRest),
                ("everything at the end", Sends::AtTheEnd),
            ]
            .map(|(with, sends)| alone(with, 1.0, Conduct { sends, ..HONEST }))
            .into(),
        },
        Strategy {
            name: "sharing one back end under several hotkeys",
            does: "several hotkeys with one back end behind them, each declaring all of it or a part",
            trials: sharing(),
        },
        Strategy {
            name: "joining and leaving",
            does: "is there a third of the time; its hardware is free for something else in between",
            trials: joining_and_leaving(),
        },
        Strategy {
            name: "colluding copies",
            does: "hotkeys with a back end each pass requests to whichever is idlest, and declare more than their own",
            trials: colluding(),
        },
    ]
}

/// Honest ways that are no strategies, for comparison.
pub(super) fn comparisons() -> Vec<Trial> {
    let honest = Variant::honest(1);
    let trial = |with: &str, variant: Variant, honest: Variant| Trial {
        with: with.to_owned(),
        variant,
        honest,
    };
    let accepting = Conduct { admits: Admits::All, ..HONEST };
    vec![
        trial(
            "hardware of twice the size",
            Variant { size: 2.0, ..honest.clone() },
            honest.clone(),
        ),
        alone("declares 0.9 times its capacity", 0.9, HONEST),
        alone("declares 0.8 times its capacity", 0.8, HONEST),
        alone("declares its capacity, accepts everything", 1.0, accepting),
        alone("declares 0.9 times its capacity, accepts everything", 0.9, accepting),
        trial(
            "4 hotkeys with a back end each that pass requests to the idlest and declare their own, against 4 that do \
             not pass requests",
            Variant::pool(4),
            Variant::honest(4),
        ),
        trial(
            "1 hotkey with 4 back ends behind it, against 4 hotkeys with one each",
            Variant { hotkeys: 1, declares: 4.0, ..Variant::pool(4) },
            Variant::honest(4),
        ),
    ]
}

fn declares(times: f64) -> String {
    if times == 1.0 {
        "declares its capacity".to_owned()
    } else if times.is_finite() {
        format!("declares {times} times its capacity")
    } else {
        "declares the most that the task allows".to_owned()
    }
}

fn over_declaring() -> Vec<Trial> {
    [1.1, 1.25, 1.5, 2.0, 10.0, f64::INFINITY]
        .into_iter()
        .flat_map(|times| {
            [
                ("accepts everything", Conduct { admits: Admits::All, ..HONEST }),
                ("refuses what would be late", HONEST),
                ("refuses when busy", REFUSES_WHEN_BUSY),
            ]
            .map(|(admits, conduct)| {
                alone(format!("{}, {admits}", declares(times)), times, conduct)
            })
        })
        .collect()
}

fn cheap(cheap: Cheap, parts: &[f64]) -> Vec<Trial> {
    let mixed = parts.iter().map(|part| {
        let conduct = Conduct { writes: Writes::Mixed(cheap, *part), ..HONEST };
        let times = 1.0 / (1.0 - part + part * cheap.work());
        alone(format!("{:.0} % of the answers", part * 100.0), times, conduct)
    });
    let busy = [1.0, 2.0].map(|times| {
        let conduct = Conduct { writes: Writes::WhenBusy(cheap), ..HONEST };
        alone(format!("when busy, {}", declares(times)), times, conduct)
    });
    mixed.chain(busy).collect()
}

fn sharing() -> Vec<Trial> {
    [2, 4]
        .into_iter()
        .flat_map(|hotkeys| {
            let part = 1.0 / hotkeys as f64;
            [
                ("all of it, accepts everything", 1.0, Conduct { admits: Admits::All, ..HONEST }),
                ("all of it, refuses when busy", 1.0, REFUSES_WHEN_BUSY),
                ("its part", part, HONEST),
                ("half as much again as its part", 1.5 * part, HONEST),
            ]
            .map(|(with, declares, conduct)| {
                let honest = Variant::honest(1);
                let variant =
                    Variant { hotkeys, pooled: true, declares, conduct, ..honest.clone() };
                Trial { with: format!("{hotkeys} hotkeys, each declares {with}"), variant, honest }
            })
        })
        .collect()
}

fn joining_and_leaving() -> Vec<Trial> {
    let (when_set, day) = ((1, super::PERIODS_PER_WEIGHTS), (16, 48));
    [("one period in three, when weights are set", when_set), ("8 hours a day", day)]
        .into_iter()
        .flat_map(|(when, (on, cycle))| {
            [
                ("is away in between", Presence::Last { on, cycle }),
                ("declares nothing in between", Presence::LastDeclaringNothing { on, cycle }),
                ("declares a hundredth in between", Presence::LastDeclaringLittle { on, cycle }),
            ]
            .map(|(between, presence)| {
                alone(format!("{when}; {between}"), 1.0, Conduct { presence, ..HONEST })
            })
        })
        .collect()
}

fn colluding() -> Vec<Trial> {
    [2, 4]
        .into_iter()
        .flat_map(|copies| {
            [
                ("the sum of all, accepts everything", copies as f64, Admits::All),
                ("the sum of all, refuses what would be late", copies as f64, Admits::InTime),
                ("the sum of all, refuses when busy", copies as f64, Admits::WhileFast),
                ("a tenth more than its own", 1.1, Admits::InTime),
                ("a quarter more than its own", 1.25, Admits::InTime),
            ]
            .map(|(with, declares, admits)| {
                // Passing requests on is no lie, so an honest pool does it as well.
                let honest = Variant::pool(copies);
                let conduct = Conduct { admits, ..HONEST };
                let variant = Variant { declares, conduct, ..honest.clone() };
                Trial { with: format!("{copies} copies, each declares {with}"), variant, honest }
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_has_variants_and_names_differ() {
        let strategies = strategies();
        let names: std::collections::BTreeSet<_> =
            strategies.iter().map(|strategy| strategy.name).collect();
        assert_eq!(names.len(), strategies.len());
        for Strategy { name, trials, .. } in strategies {
            assert!(!trials.is_empty(), "{name}");
            assert!(trials.iter().all(|trial| trial.variant != trial.honest), "{name}");
        }
    }

    #[test]
    fn who_comes_when_weights_are_set_is_there_then() {
        let presence = Presence::Last { on: 1, cycle: 3 };
        let parts: Vec<_> = (0..6).map(|period| presence.part(period)).collect();
        assert_eq!(
            parts,
            [Part::Away, Part::Away, Part::There, Part::Away, Part::Away, Part::There]
        );
    }

    #[test]
    fn no_miner_declares_more_than_the_task_allows() {
        let hardware = Hardware { total: 100.0, single: 50.0, prefill: 0.0 };
        let most = alone("", f64::INFINITY, HONEST).variant.miners(&hardware, 1_800.0, 9e5);
        assert_eq!(most.len(), 1);
        assert_eq!(most[0].declared, 9e5);
        let pool = Variant::pool(3).miners(&hardware, 1_800.0, 9e5);
        assert!(pool.iter().all(|miner| miner.backends == [0, 1, 2] && miner.declared == 1.8e5));
        let apart = Variant::honest(2).miners(&hardware, 1_800.0, 9e5);
        assert_eq!([&apart[0].backends, &apart[1].backends], [&vec![0], &vec![1]]);
    }
}
