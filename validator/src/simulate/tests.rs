//! What the default rules promise, at a small size.

use super::*;

const SEEDS: u64 = 4;

fn setting() -> Setting {
    let amount = Amount { periods: 30, seeds: SEEDS, users: 0.08 };
    let setting = Setting::new(amount).unwrap();
    Setting { field: 5, periods: 24 + amount.periods, warm_up: 24, ..setting }
}

fn tried(trials: &[Trial]) -> Vec<Tried> {
    tried_in(&setting(), trials)
}

fn tried_in(setting: &Setting, trials: &[Trial]) -> Vec<Tried> {
    let trials: Vec<_> = trials.iter().collect();
    try_out(setting, &Rules::default(), &trials, SEEDS, |_, _| {})
}

#[test]
fn no_strategy_earns_more_than_honesty() {
    // One telling parameter of each; `validator simulate` tries all of them for longer.
    for (name, with) in [
        ("over-declaring capacity", "declares 2 times its capacity, refuses what would be late"),
        ("answering only probes", "declares its capacity"),
        ("refusing everything beyond a trickle", "answers 50 %, declares its capacity"),
        ("serving fast garbage", "25 % of the answers"),
        ("serving a small model", "25 % of the answers"),
        ("burst-and-stall streaming", "the first token, then the rest"),
        (
            "sharing one back end under several hotkeys",
            "2 hotkeys, each declares all of it, accepts everything",
        ),
        (
            "joining and leaving",
            "one period in three, when weights are set; declares nothing in between",
        ),
        ("colluding copies", "2 copies, each declares the sum of all, accepts everything"),
    ] {
        let strategies = strategies();
        let strategy = strategies.iter().find(|own| own.name == name).unwrap();
        let trial = strategy.trials.iter().find(|own| own.with == with).unwrap();
        let tried = tried(std::slice::from_ref(trial));
        assert!(tried[0].income_vs_honest < 1.0, "{name}: {tried:?}");
    }
}

#[test]
fn hotkeys_that_take_turns_on_one_back_end_gain_nothing_from_many_users() {
    let strategies = strategies();
    let sharing = strategies
        .iter()
        .find(|own| own.name == "sharing one back end under several hotkeys")
        .unwrap();
    let turns: Vec<_> = sharing
        .trials
        .iter()
        .filter(|own| own.with.ends_with("refuses when busy"))
        .cloned()
        .collect();
    assert!(!turns.is_empty());
    for tried in tried_in(&Setting { organic: 0.3, ..setting() }, &turns) {
        assert!(tried.income_vs_honest < 1.0, "{tried:?}");
    }
}

#[test]
fn hardware_of_twice_the_size_earns_twice_as_much_or_a_little_more() {
    let comparisons = comparisons();
    let double: Vec<_> =
        comparisons.into_iter().filter(|own| own.with == "hardware of twice the size").collect();
    let tried = tried(&double);
    assert!((1.8..2.6).contains(&tried[0].income_vs_honest), "{tried:?}");
}

#[test]
fn the_same_seed_earns_the_same() {
    let setting = Setting { periods: 6, warm_up: 2, ..setting() };
    let income = |seed| world::income(&setting, &Rules::default(), &Variant::honest(1), seed);
    assert_eq!(income(1), income(1));
    assert_ne!(income(1), income(2));
}

#[test]
fn all_miners_together_earn_everything() {
    let setting = Setting { field: 0, ..setting() };
    let income = world::income(&setting, &Rules::default(), &Variant::honest(3), 1);
    assert!((income - 1.0).abs() < 1e-9, "{income}");
}
