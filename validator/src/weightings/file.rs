//! Reads the task catalogue again when its file changes. Only weights are taken over while the validator runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::TaskId;
use tasks::{Catalogue, Task};
use tracing::{info, warn};

/// How often the file is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The catalogue's file, and what is known of it.
#[derive(Debug)]
pub(super) struct CatalogueFile {
    path: PathBuf,
    /// What the validator works with.
    started: Arc<Catalogue>,
    seen: Option<Stamp>,
    broken: Option<String>,
    restart: Vec<String>,
}

/// Two of these are the same as long as nobody has written the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

/// What a changed catalogue means for a validator that runs.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    /// Of the tasks that the validator works with; 0 for those that the catalogue no longer enables. Sums to 1.
    weights: BTreeMap<TaskId, f64>,
    /// What only a restart puts in force.
    restart: Vec<String>,
}

impl CatalogueFile {
    pub(super) fn new(path: PathBuf, started: Arc<Catalogue>) -> Self {
        Self { path, started, seen: None, broken: None, restart: Vec::new() }
    }

    /// The weights of a file that has changed and can be used. What is wrong with one is said once.
    pub(super) async fn look(&mut self) -> Option<BTreeMap<TaskId, f64>> {
        let (path, seen) = (self.path.clone(), self.seen);
        let read = tokio::task::spawn_blocking(move || {
            let stamp = std::fs::metadata(&path)
                .map(|about| Stamp { modified: about.modified().ok(), bytes: about.len() })
                .ok();
            let changed = stamp.is_none() || stamp != seen;
            (stamp, changed.then(|| Catalogue::load(&path)))
        });
        let (stamp, loaded) = read.await.ok()?;
        self.seen = stamp;
        let change =
            loaded?.map_err(|bad| bad.to_string()).and_then(|now| change(&self.started, &now));
        match change {
            Ok(change) => {
                if self.broken.take().is_some() {
                    info!("the task catalogue can be used again");
                }
                if !change.restart.is_empty() && change.restart != self.restart {
                    let what = change.restart.join("; ");
                    warn!(
                        "the task catalogue has changes that need a restart of the validator: {what}"
                    );
                }
                self.restart = change.restart;
                Some(change.weights)
            }
            Err(problem) => {
                if self.broken.as_ref() != Some(&problem) {
                    warn!("the last good weightings of the tasks stay in force: {problem}");
                }
                self.broken = Some(problem);
                None
            }
        }
    }
}

/// Compares the catalogue that the validator works with and the one that its file has now.
fn change(started: &Catalogue, now: &Catalogue) -> Result<Change, String> {
    let mut restart = Vec::new();
    let mut weights = BTreeMap::new();
    for (old, _) in started.enabled() {
        // Routing goes by the scores of all tasks at work, so none is left out.
        let weight = match now.task(&old.id) {
            None => {
                restart.push(format!("`{}` is gone", old.id));
                0.0
            }
            Some(new) if !new.enabled => {
                restart.push(format!("`{}` is disabled", old.id));
                0.0
            }
            Some(new) => {
                if (Task { weight: old.weight, ..new.clone() }) != *old {
                    restart.push(format!("`{}` has other settings", old.id));
                }
                new.weight
            }
        };
        weights.insert(old.id.clone(), weight);
    }
    for (new, _) in now.enabled() {
        match started.task(&new.id) {
            None => restart.push(format!("`{}` is new", new.id)),
            Some(old) if !old.enabled => restart.push(format!("`{}` is enabled", new.id)),
            Some(_) => {}
        }
    }
    let total: f64 = weights.values().sum();
    if total <= 0.0 {
        return Err(
            "none of the tasks that this validator works with has a weight above 0 in the \
                    task catalogue now"
                .to_owned(),
        );
    }
    weights.values_mut().for_each(|weight| *weight /= total);
    Ok(Change { weights, restart })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tasks by id, weight, whether they are enabled, and their limit of tokens.
    fn catalogue(tasks: &[(&str, f64, bool, u32)]) -> String {
        let task = |(id, weight, enabled, tokens): &(&str, f64, bool, u32)| {
            format!(
                "[[task]]\nid = \"{id}\"\nkind = \"chat\"\nmodel = \"m\"\nweight = {weight}\n\
                 enabled = {enabled}\nmax_capacity = 1000\ntokens_per_request = 50\n\
                 limits = {{ max_tokens = {tokens}, max_prompt_bytes = 4096 }}\n\
                 timeouts = {{ first_token_s = 1, total_s = 2 }}\n\
                 engine = {{ folder = \"f\", context = 512 }}\n"
            )
        };
        tasks.iter().map(task).collect()
    }

    fn changed(
        before: &[(&str, f64, bool, u32)],
        now: &[(&str, f64, bool, u32)],
    ) -> Result<Change, String> {
        let parse = |tasks| Catalogue::parse(&catalogue(tasks), "test.toml").unwrap();
        change(&parse(before), &parse(now))
    }

    fn weights(weights: &[(&str, f64)]) -> BTreeMap<TaskId, f64> {
        weights.iter().map(|(id, weight)| (id.parse().unwrap(), *weight)).collect()
    }

    #[test]
    fn new_weights_are_taken_over_and_sum_to_one() {
        let before = [("a", 1.0, true, 64), ("b", 1.0, true, 64), ("c", 5.0, false, 64)];
        let now = [("c", 7.0, false, 32), ("b", 3.0, true, 64), ("a", 1.0, true, 64)];
        let change = changed(&before, &now).unwrap();
        assert_eq!(change.weights, weights(&[("a", 0.25), ("b", 0.75)]));
        assert_eq!(change.restart, [""; 0], "a task that is and was disabled matters to nobody");
    }

    #[test]
    fn what_needs_a_restart_is_named_and_leaves_the_remaining_weights_whole() {
        let before = [
            ("a", 1.0, true, 64),
            ("b", 1.0, true, 64),
            ("c", 1.0, false, 64),
            ("d", 2.0, true, 64),
        ];
        let now = [
            ("a", 1.0, false, 64),
            ("c", 4.0, true, 64),
            ("d", 1.0, true, 32),
            ("e", 9.0, true, 64),
        ];
        let change = changed(&before, &now).unwrap();
        assert_eq!(change.weights, weights(&[("a", 0.0), ("b", 0.0), ("d", 1.0)]));
        assert_eq!(
            change.restart,
            [
                "`a` is disabled",
                "`b` is gone",
                "`d` has other settings",
                "`c` is enabled",
                "`e` is new"
            ]
        );
    }

    #[test]
    fn a_catalogue_without_weight_for_the_tasks_at_work_is_refused() {
        let before = [("a", 1.0, true, 64)];
        assert!(changed(&before, &[("b", 1.0, true, 64)]).is_err());
        assert!(changed(&before, &[("a", 0.0, true, 64), ("b", 1.0, true, 64)]).is_err());
    }

    #[tokio::test]
    async fn a_file_is_read_when_it_changes_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.toml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(&catalogue(&[("a", 1.0, true, 64), ("b", 1.0, true, 64)]));
        let started = Arc::new(Catalogue::load(&path).unwrap());
        let mut file = CatalogueFile::new(path.clone(), started);

        assert_eq!(file.look().await, Some(weights(&[("a", 0.5), ("b", 0.5)])));
        assert_eq!(file.look().await, None, "nobody has written it");
        write("[[task]\n");
        assert_eq!(file.look().await, None);
        assert!(file.broken.is_some());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.look().await, None);
        write(&catalogue(&[("a", 3.25, true, 64), ("b", 0.0, true, 64)]));
        assert_eq!(file.look().await, Some(weights(&[("a", 1.0), ("b", 0.0)])));
        assert_eq!(file.broken, None);
        tasks::edit::set_weights(&path, &weights(&[("b", 9.75)])).unwrap();
        assert_eq!(file.look().await, Some(weights(&[("a", 0.25), ("b", 0.75)])));
    }
}
