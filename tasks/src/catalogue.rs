//! What a subnet's tasks are, read from TOML. `config/tasks.toml` documents the format key by key.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::format::NumericFormat;
use common::money::Price;
use common::openai::{Features, Kind, Limits};
use common::{MechanismId, TaskId, Volume};
use serde::Serialize;
use toml::Table;

use crate::reader::{Problem, Problems};
use read::read_tasks;

/// More than any catalogue needs; a larger file is some other file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The tasks of a subnet, checked as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalogue {
    tasks: Vec<Task>,
    /// Of enabled tasks only; sums to 1.
    weights: BTreeMap<TaskId, f64>,
}

/// Why a catalogue cannot be used: everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadCatalogue {
    source: String,
    problems: Vec<Problem>,
}

impl BadCatalogue {
    /// Everything that is wrong, in the order of the file. Never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for BadCatalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task catalogue {} cannot be used:", self.source)?;
        match self.problems.as_slice() {
            [only] => write!(f, " {only}"),
            several => several.iter().try_for_each(|problem| write!(f, "\n  {problem}")),
        }
    }
}

impl std::error::Error for BadCatalogue {}

/// One task: what is asked of miners, how it is limited, checked, and what it is worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Task {
    pub id: TaskId,
    pub kind: Kind,
    /// For people; the id if the catalogue has none.
    pub display_name: String,
    pub description: String,
    /// The model's name, as shown to users.
    pub model: String,
    /// A task that is not enabled is neither served nor scored and has no part of the weight.
    pub enabled: bool,
    /// The subnet's mechanism whose weights the task counts for.
    pub mechanism: MechanismId,
    /// As written in the catalogue: at least 0. [`Catalogue::weights`] has the normalised ones.
    pub weight: f64,
    /// The most that one miner may declare, in tokens per scoring period. Above 0.
    pub max_capacity: Volume,
    /// Tokens a typical synthetic request makes a miner write. Above 0.
    pub tokens_per_request: f64,
    /// What users with a key pay. Free if the catalogue has no price.
    pub price: Price,
    pub limits: TaskLimits,
    /// What of the API the model and the miners' engines can do.
    pub features: Features,
    pub timeouts: Timeouts,
    pub engine: Engine,
    pub checking: Checking,
    pub prompts: Prompts,
}

/// What one request may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TaskLimits {
    /// The largest `max_tokens`; also what a request without one gets.
    pub max_tokens: u32,
    /// The most bytes of prompt text over all messages, each of which counts 16 more.
    pub max_prompt_bytes: u32,
}

/// How long an answer may take, counted from when the request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timeouts {
    /// Until the first token. At most `total_s`.
    pub first_token_s: f64,
    /// Until the end of the answer.
    pub total_s: f64,
}

impl Timeouts {
    /// `first_token_s` as a duration.
    pub fn first_token(&self) -> Duration {
        Duration::from_secs_f64(self.first_token_s)
    }

    /// `total_s` as a duration.
    pub fn total(&self) -> Duration {
        Duration::from_secs_f64(self.total_s)
    }
}

/// What a server has to load to serve or check the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Engine {
    #[serde(flatten)]
    pub source: ModelSource,
    /// Name of another tokenizer than the model's own.
    pub tokenizer: Option<String>,
    /// What miners are to serve. References are computed in the checking server's own format.
    pub dtype: Dtype,
    /// The most tokens of prompt and answer together.
    pub context: u32,
}

/// Where a model's files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelSource {
    /// A folder of this machine. Relative ones are relative to the catalogue's file.
    Folder(PathBuf),
    /// A repository of the Hugging Face hub, such as `unsloth/Llama-3.2-3B-Instruct`.
    Hub(String),
}

/// The number format a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// What the model's files and the machine suggest.
    Auto,
    F32,
    F16,
    Bf16,
}

/// How answers are sampled for checking and judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checking {
    /// The share of answers that is checked, `0.0..=1.0`.
    pub share: f64,
    /// The formats in which miners may compute the model, ascending, at least one.
    pub formats: Vec<NumericFormat>,
    /// Whether miners draw with the requests' seeds.
    pub seeded: bool,
}

/// What synthetic requests look like: the ranges that the task's organic requests have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prompts {
    /// The share of conversations that start with a system message, `0.0..=1.0`. Of no effect on completions.
    pub system_share: f64,
    /// Words of a prompt over all messages, approximately.
    pub words: Span<u32>,
    pub temperature: Span<f64>,
    /// Of the requests that have one; a quarter gets [`TaskLimits::max_tokens`], as users' requests without one do.
    pub max_tokens: Span<u32>,
}

/// An inclusive range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span<T> {
    pub min: T,
    /// At least `min`.
    pub max: T,
}

impl Task {
    /// What a request for this task is read against.
    pub fn limits(&self) -> Limits {
        Limits {
            max_tokens: self.limits.max_tokens,
            max_prompt_bytes: self.limits.max_prompt_bytes as usize,
            features: self.features,
        }
    }
}

impl Catalogue {
    /// Reads a catalogue; `source` names it in errors. Relative model folders stay as they are.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn parse(text: &str, source: &str) -> Result<Self, BadCatalogue> {
        let bad = |problems| BadCatalogue { source: source.to_owned(), problems };
        let document: Table = text.parse().map_err(|error: toml::de::Error| {
            bad(vec![Problem {
                key: String::new(),
                what: format!("it is not valid TOML: {}", error.to_string().trim()),
            }])
        })?;
        let problems = Problems::default();
        let tasks = read_tasks(document, &problems);
        if problems.is_empty() && tasks.iter().all(|task| !task.enabled) {
            problems.note("task", "no task is enabled; at least one must be");
        }
        let weights = normalise(&tasks);
        if problems.is_empty() && weights.values().all(|weight| *weight == 0.0) {
            problems.note(
                "task",
                "the weights of all enabled tasks are 0; at least one must be above 0",
            );
        }
        let problems = problems.into_vec();
        if problems.is_empty() { Ok(Self { tasks, weights }) } else { Err(bad(problems)) }
    }

    /// Reads a catalogue's file and takes relative model folders as relative to it.
    ///
    /// # Errors
    /// Every problem at once, or why the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, BadCatalogue> {
        let mut catalogue = Self::parse(&read_text(path)?, &path.display().to_string())?;
        let base = path.parent().unwrap_or(Path::new(""));
        for task in &mut catalogue.tasks {
            if let ModelSource::Folder(folder) = &mut task.engine.source {
                *folder = base.join(&*folder);
            }
        }
        Ok(catalogue)
    }

    /// The task of this name, enabled or not.
    pub fn task(&self, id: &TaskId) -> Option<&Task> {
        self.tasks.iter().find(|task| task.id == *id)
    }

    /// All tasks, in the order of the file.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The enabled tasks with their normalised weights, in the order of the file.
    pub fn enabled(&self) -> impl Iterator<Item = (&Task, f64)> {
        self.tasks.iter().filter_map(|task| Some((task, *self.weights.get(&task.id)?)))
    }

    /// The normalised weights of the enabled tasks; over those of all mechanisms they sum to 1.
    pub fn weights(&self) -> &BTreeMap<TaskId, f64> {
        &self.weights
    }

    /// The mechanisms that have enabled tasks, each with these. Never empty.
    pub fn mechanisms(&self) -> BTreeMap<MechanismId, BTreeSet<TaskId>> {
        let mut mechanisms: BTreeMap<MechanismId, BTreeSet<TaskId>> = BTreeMap::new();
        for (task, _) in self.enabled() {
            mechanisms.entry(task.mechanism).or_default().insert(task.id.clone());
        }
        mechanisms
    }
}

/// A catalogue's file as text.
pub(crate) fn read_text(path: &Path) -> Result<String, BadCatalogue> {
    let unreadable = |what: String| BadCatalogue {
        source: path.display().to_string(),
        problems: vec![Problem { key: String::new(), what }],
    };
    let size = std::fs::metadata(path)
        .map_err(|error| unreadable(format!("it cannot be read: {error}")))?
        .len();
    if size > MAX_FILE_BYTES {
        return Err(unreadable(format!("it has {size} bytes, at most {MAX_FILE_BYTES} are read")));
    }
    std::fs::read_to_string(path).map_err(|error| unreadable(format!("it cannot be read: {error}")))
}

/// The weights of the enabled tasks as parts of their sum, or zeros as they are.
fn normalise(tasks: &[Task]) -> BTreeMap<TaskId, f64> {
    let enabled = || tasks.iter().filter(|task| task.enabled);
    let total: f64 = enabled().map(|task| task.weight).sum();
    let divisor = if total > 0.0 { total } else { 1.0 };
    enabled().map(|task| (task.id.clone(), task.weight / divisor)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name)
    }

    /// A task with the least it needs; `{extra}` replaces or adds lines.
    fn task(id: &str, extra: &str) -> String {
        format!(
            "[[task]]\nid = \"{id}\"\nkind = \"chat\"\nmodel = \"m\"\nmax_capacity = 1000\n\
             tokens_per_request = 50\nlimits = {{ max_tokens = 64, max_prompt_bytes = 4096 }}\n\
             timeouts = {{ first_token_s = 1, total_s = 2 }}\nengine = {{ folder = \"f\", context = 512 }}\n{extra}\n"
        )
    }

    fn problems(text: &str) -> Vec<String> {
        let error = Catalogue::parse(text, "test.toml").unwrap_err();
        error.problems().iter().map(Problem::to_string).collect()
    }

    fn keys(text: &str) -> Vec<String> {
        let error = Catalogue::parse(text, "test.toml").unwrap_err();
        error.problems().iter().map(|problem| problem.key.clone()).collect()
    }

    #[test]
    fn the_local_catalogue_is_sound() {
        let catalogue = Catalogue::load(&config("tasks.toml")).unwrap();
        let enabled: Vec<_> =
            catalogue.enabled().map(|(task, weight)| (task.id.to_string(), weight)).collect();
        assert_eq!(enabled, [("chat-demo".to_owned(), 0.6), ("complete-demo".to_owned(), 0.4)]);
        let ModelSource::Folder(folder) = &catalogue.tasks()[0].engine.source else {
            panic!("a folder")
        };
        assert!(
            folder.ends_with("config/../demo-model/touchstone-demo-4m"),
            "{}",
            folder.display()
        );
    }

    #[test]
    fn the_reference_catalogue_has_its_text_tasks_in_their_proportions() {
        let catalogue = Catalogue::load(&config("tasks.subnet19.toml")).unwrap();
        assert_eq!(catalogue.tasks().len(), 7);
        let original: f64 = catalogue.tasks().iter().map(|task| task.weight).sum();
        assert!((original - 0.5).abs() < 1e-12);
        let weight = |id: &str| catalogue.weights()[&id.parse::<TaskId>().unwrap()];
        assert!((weight("chat-llama-3-1-70b") - 0.2).abs() < 1e-12);
        assert!((weight("chat-llama-3-2-3b-comp") - 0.05).abs() < 1e-12);
        assert!(catalogue.tasks().iter().all(|task| task.max_capacity.get() == 60_000.0));
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let catalogue = Catalogue::parse(&task("a", "weight = 3"), "test.toml").unwrap();
        let task = catalogue.task(&"a".parse().unwrap()).unwrap();
        assert!(task.enabled);
        assert_eq!(task.display_name, "a");
        let formats = [NumericFormat::F32, NumericFormat::F16, NumericFormat::Bf16];
        assert_eq!(task.checking.formats, formats);
        assert!(task.checking.seeded);
        assert_eq!(task.prompts.max_tokens, Span { min: 16, max: 64 });
        let features = Features { tools: false, ..Features::ALL };
        assert_eq!(task.limits(), Limits { features, ..Limits::new(64, 4096) });
        assert_eq!(task.timeouts.first_token(), Duration::from_secs(1));
    }

    #[test]
    fn features_are_listed_by_name() {
        let features = |listed: &str| {
            let text = task("a", &format!("weight = 1\nfeatures = {listed}"));
            Catalogue::parse(&text, "test.toml").map(|catalogue| catalogue.tasks()[0].features)
        };
        assert_eq!(features("[]"), Ok(Features::NONE));
        let all = r#"["json_schema", "tools", "forced_tools"]"#;
        assert_eq!(features(all), Ok(Features::ALL));
        for wrong in [r#"["images"]"#, r#""tools""#, "[1]", r#"["tools", "tools"]"#] {
            let error = features(wrong).unwrap_err();
            assert_eq!(error.problems()[0].key, "task[0].features", "{wrong}: {error}");
        }
    }

    #[test]
    fn a_disabled_task_keeps_no_share() {
        let text = task("a", "weight = 1")
            + &task("b", "weight = 3")
            + &task("c", "weight = 9\nenabled = false");
        let catalogue = Catalogue::parse(&text, "test.toml").unwrap();
        let weights: Vec<_> =
            catalogue.enabled().map(|(task, weight)| (task.id.as_str(), weight)).collect();
        assert_eq!(weights, [("a", 0.25), ("b", 0.75)]);
        assert!(catalogue.task(&"c".parse().unwrap()).is_some_and(|task| !task.enabled));
    }

    #[test]
    fn each_enabled_task_counts_for_one_mechanism() {
        let text = task("a", "weight = 1")
            + &task("b", "weight = 3\nmechanism = 1")
            + &task("c", "weight = 0")
            + &task("d", "weight = 1\nmechanism = 2\nenabled = false");
        let mechanisms = Catalogue::parse(&text, "test.toml").unwrap().mechanisms();
        let names: Vec<_> = mechanisms
            .iter()
            .map(|(id, tasks)| (id.0, tasks.iter().map(TaskId::as_str).collect::<Vec<_>>()))
            .collect();
        assert_eq!(names, [(0, vec!["a", "c"]), (1, vec!["b"])]);
        for wrong in ["16", "-1", "\"first\""] {
            let text = task("a", &format!("weight = 1\nmechanism = {wrong}"));
            assert_eq!(keys(&text), ["task[0].mechanism"], "{wrong}");
        }
    }

    #[test]
    fn every_problem_is_listed_with_its_full_key() {
        let text = task("a", "weight = -1\ncolour = \"red\"")
            + &task(
                "a",
                "weight = nan\nenabled = \"yes\"\n[task.checking]\nshare = 1.5\nshares = 1",
            )
            + "[[task]]\nid = \"Not An Id\"\nkind = \"image\"\nweight = 1\nmodel = 7\n\
               [task.engine]\nfolder = \"f\"\nhub = \"h\"\ncontext = 0\n\
               [task.timeouts]\nfirst_token_s = 5\ntotal_s = 1\n[other]\n";
        let mut found = keys(&text);
        found.sort();
        let mut expected = [
            "task[0].weight",
            "task[0].colour",
            "task[1].id",
            "task[1].weight",
            "task[1].enabled",
            "task[1].checking.share",
            "task[1].checking.shares",
            "task[2].id",
            "task[2].kind",
            "task[2].model",
            "task[2].max_capacity",
            "task[2].tokens_per_request",
            "task[2].limits",
            "task[2].engine.folder",
            "task[2].engine.context",
            "task[2].timeouts.first_token_s",
            "other",
        ];
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_problem_says_what_to_do() {
        assert_eq!(
            problems(&task("a", "weight = -0.5")),
            ["task[0].weight: must be between 0 and 1e9, is -0.5"],
        );
        assert_eq!(
            problems(&(task("a", "weight = 1") + &task("a", "weight = 1"))),
            ["task[1].id: `a` is already the id of task[0]"],
        );
        assert!(
            problems(&task("a", "weight = 1\nwieght = 1"))[0]
                .starts_with("task[0].wieght: is not a known key")
        );
    }

    #[test]
    fn weights_that_are_all_zero_are_refused() {
        let zero = task("a", "weight = 0") + &task("b", "weight = 0.0");
        assert_eq!(
            problems(&zero),
            ["task: the weights of all enabled tasks are 0; at least one must be above 0"]
        );
        let only_disabled_has_weight =
            task("a", "weight = 0") + &task("b", "weight = 1\nenabled = false");
        assert_eq!(keys(&only_disabled_has_weight), ["task"]);
    }

    #[test]
    fn a_catalogue_without_a_usable_task_is_refused() {
        for text in ["", "task = []", &task("a", "weight = 1\nenabled = false")] {
            assert_eq!(keys(text), ["task"], "{text}");
        }
        assert!(problems("task = 3")[0].starts_with("task: must be a list of tables"));
        assert!(problems("task = [1]")[0].starts_with("task[0]: must be a table"));
    }

    #[test]
    fn a_file_that_is_no_toml_or_does_not_exist_is_named() {
        let error = Catalogue::parse("[[task\n", "broken.toml").unwrap_err().to_string();
        assert!(
            error
                .starts_with("the task catalogue broken.toml cannot be used: it is not valid TOML"),
            "{error}"
        );
        let error = Catalogue::load(Path::new("no/such/tasks.toml")).unwrap_err().to_string();
        assert!(
            error.contains("no/such/tasks.toml") && error.contains("cannot be read"),
            "{error}"
        );
    }

    #[test]
    fn a_prompt_must_fit_into_what_the_task_takes() {
        let words = |max: u32| {
            task(
                "a",
                &format!(
                    "weight = 1\nprompts = {{ words = {{ max = {max} }}, max_tokens = {{ max = 65 }} }}"
                ),
            )
        };
        // Five messages count as much as five words.
        assert_eq!(
            keys(&words(252)),
            ["task[0].prompts.words.max", "task[0].prompts.max_tokens.max"]
        );
        assert_eq!(keys(&words(251)), ["task[0].prompts.max_tokens.max"]);
        assert_eq!(
            keys(&words(256).replace("\"chat\"", "\"completion\"")),
            ["task[0].prompts.max_tokens.max"]
        );
        let no_room = task("a", "weight = 1").replace("context = 512", "context = 64");
        assert_eq!(keys(&no_room), ["task[0].limits.max_tokens"]);
        let no_receipt = task("a", "weight = 1").replace("max_tokens = 64", "max_tokens = 131073");
        assert_eq!(keys(&no_receipt), ["task[0].limits.max_tokens"]);
    }

    proptest! {
        #[test]
        fn weights_are_normalised_over_the_enabled_tasks(
            entries in prop::collection::vec((0.0..1e6, any::<bool>()), 1..12),
        ) {
            let text: String = entries
                .iter()
                .enumerate()
                .map(|(n, (weight, enabled))| task(&format!("t{n}"), &format!("weight = {weight:?}\nenabled = {enabled}")))
                .collect();
            let total: f64 = entries.iter().filter(|(_, enabled)| *enabled).map(|(weight, _)| weight).sum();
            match Catalogue::parse(&text, "test.toml") {
                Ok(catalogue) => {
                    prop_assert!((catalogue.weights().values().sum::<f64>() - 1.0).abs() < 1e-9);
                    prop_assert_eq!(catalogue.enabled().count(), entries.iter().filter(|(_, enabled)| *enabled).count());
                }
                Err(_) => prop_assert!(total == 0.0),
            }
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "(\\[\\[task\\]\\]|[a-z_]{1,12} = |[0-9.\"{}\\[\\]\n-]){0,40}") {
            let _ = Catalogue::parse(&text, "test.toml");
        }
    }
}
