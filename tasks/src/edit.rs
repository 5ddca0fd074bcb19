//! Writes task weightings into a catalogue's file and leaves everything else in it as people wrote it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use common::TaskId;
use toml_edit::{DocumentMut, Item, TableLike, Value};

use crate::catalogue::read_text;
use crate::{BadCatalogue, Catalogue};

/// Why a catalogue's file is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error("the task catalogue {} has no {}", .path.display(), tasks(.unknown))]
    UnknownTasks { path: PathBuf, unknown: Vec<TaskId> },
    /// The file is no catalogue, or would not be one with these weights.
    #[error(transparent)]
    Bad(#[from] BadCatalogue),
    #[error("the task catalogue {} is not valid TOML", .path.display())]
    Syntax { path: PathBuf, source: toml_edit::TomlError },
    #[error("the task catalogue {} cannot be written", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

fn tasks(unknown: &[TaskId]) -> String {
    let names: Vec<_> = unknown.iter().map(|id| format!("`{id}`")).collect();
    format!("{} {}", if names.len() == 1 { "task" } else { "tasks" }, names.join(", "))
}

/// Sets the `weight` of each task named in `weights`, which are numbers as catalogues have them: 0 to 10⁹, of any sum.
///
/// Comments, order and formatting stay, and so do weights that are not named. The file is replaced as a whole, so a reader
/// sees the old one or the new one; where `path` is a link, what it points to is replaced.
///
/// # Errors
/// The file is untouched if a task is not in it, if it would not be a valid catalogue, or if it cannot be written.
pub fn set_weights(path: &Path, weights: &BTreeMap<TaskId, f64>) -> Result<(), EditError> {
    let source = path.display().to_string();
    let text = read_text(path)?;
    let mut document: DocumentMut =
        text.parse().map_err(|source| EditError::Syntax { path: path.to_owned(), source })?;
    let mut unknown: BTreeSet<&TaskId> = weights.keys().collect();
    for_each_task(&mut document, |task| {
        let named =
            |(id, _): &(&TaskId, &f64)| task.get("id").and_then(Item::as_str) == Some(id.as_str());
        if let Some((id, weight)) = weights.iter().find(named) {
            set(task, *weight);
            unknown.remove(id);
        }
    });
    if !unknown.is_empty() {
        let unknown = unknown.into_iter().cloned().collect();
        return Err(EditError::UnknownTasks { path: path.to_owned(), unknown });
    }
    let edited = document.to_string();
    Catalogue::parse(&edited, &source)?;
    if edited == text {
        return Ok(());
    }
    replace(path, &edited).map_err(|source| EditError::Write { path: path.to_owned(), source })
}

fn for_each_task(document: &mut DocumentMut, mut edit: impl FnMut(&mut dyn TableLike)) {
    match document.get_mut("task") {
        Some(Item::ArrayOfTables(tasks)) => tasks.iter_mut().for_each(|task| edit(task)),
        Some(Item::Value(Value::Array(tasks))) => {
            tasks.iter_mut().filter_map(Value::as_inline_table_mut).for_each(|task| edit(task));
        }
        _ => {}
    }
}

/// Replaces the number and keeps what is around it. A number that is right already stays as it is written.
fn set(task: &mut dyn TableLike, weight: f64) {
    match task.get_mut("weight") {
        Some(Item::Value(old)) => {
            let written = old.as_float().or_else(|| old.as_integer().map(|number| number as f64));
            if written != Some(weight) {
                let decor = old.decor().clone();
                *old = Value::from(weight);
                *old.decor_mut() = decor;
            }
        }
        _ => {
            task.insert("weight", toml_edit::value(weight));
        }
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = path.canonicalize()?;
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    // A new temporary file is for its owner's eyes only.
    file.as_file().set_permissions(std::fs::metadata(&path)?.permissions())?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHIPPED: &str = include_str!("../../config/tasks.toml");

    fn weights(weights: &[(&str, f64)]) -> BTreeMap<TaskId, f64> {
        weights.iter().map(|(id, weight)| (id.parse().unwrap(), *weight)).collect()
    }

    /// A folder with a catalogue in it.
    fn catalogue(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn is_untouched(path: &Path) -> bool {
        let folder = std::fs::read_dir(path.parent().unwrap()).unwrap();
        std::fs::read_to_string(path).unwrap() == SHIPPED && folder.count() == 1
    }

    #[test]
    fn only_the_numbers_change() {
        let (_folder, path) = catalogue(SHIPPED);
        set_weights(&path, &weights(&[("chat-demo", 0.25), ("complete-demo", 3.0)])).unwrap();
        let expected = SHIPPED
            .replace("\nweight = 0.6\n", "\nweight = 0.25\n")
            .replace("\nweight = 0.4\n", "\nweight = 3.0\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn comments_beside_a_number_and_other_ways_to_write_tables_are_kept() {
        let task = |id: &str, weight: &str| {
            format!(
                "{{ id = \"{id}\", weight = {weight}, kind = \"chat\", model = \"m\", \
                 max_capacity = 1000, tokens_per_request = 50, \
                 limits = {{ max_tokens = 64, max_prompt_bytes = 4096 }}, \
                 timeouts = {{ first_token_s = 1, total_s = 2 }}, \
                 engine = {{ folder = \"f\", context = 512 }} }}"
            )
        };
        let inline = |weight: &str| {
            format!("task = [ {},\n  {} ] # two\n", task("a", weight), task("b", "1e0"))
        };
        let (_folder, path) = catalogue(&inline("1"));
        set_weights(&path, &weights(&[("a", 0.5), ("b", 1.0)])).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), inline("0.5"));

        let commented = |weight: &str| {
            let new = format!("weight   =   {weight}   # half, for now\n");
            SHIPPED.replacen("weight = 0.6\n", &new, 1)
        };
        let (_folder, path) = catalogue(&commented("0.6"));
        set_weights(&path, &weights(&[("chat-demo", 0.5)])).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), commented("0.5"));
    }

    #[test]
    fn a_task_that_is_not_there_is_named_and_nothing_is_written() {
        let (_folder, path) = catalogue(SHIPPED);
        let wrong = weights(&[("chat-demo", 0.1), ("flux", 0.5), ("sdxl", 0.4)]);
        let error = set_weights(&path, &wrong).unwrap_err();
        assert!(error.to_string().ends_with("has no tasks `flux`, `sdxl`"), "{error}");
        assert!(is_untouched(&path));
    }

    #[test]
    fn weights_that_make_no_catalogue_are_not_written() {
        for (chat, complete) in [(f64::NAN, 1.0), (-1.0, 1.0), (f64::INFINITY, 1.0), (0.0, 0.0)] {
            let (_folder, path) = catalogue(SHIPPED);
            let wrong = weights(&[("chat-demo", chat), ("complete-demo", complete)]);
            let error = set_weights(&path, &wrong).unwrap_err();
            assert!(matches!(error, EditError::Bad(_)), "{chat} {complete}: {error}");
            assert!(is_untouched(&path));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_and_the_permissions_stay() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, path) = catalogue(SHIPPED);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        set_weights(&link, &weights(&[("chat-demo", 0.9)])).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        let read = Catalogue::load(&path).unwrap();
        assert_eq!(read.task(&"chat-demo".parse().unwrap()).unwrap().weight, 0.9);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_missing_file_and_one_that_is_no_toml_are_said() {
        let (_folder, path) = catalogue("task = [");
        let error = set_weights(&path, &weights(&[("a", 1.0)])).unwrap_err();
        assert!(matches!(error, EditError::Syntax { .. }), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = set_weights(&path, &weights(&[("a", 1.0)])).unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_exactly(chat in 0.0..1e9_f64, complete in 1e-300..1.0_f64) {
            let (_folder, path) = catalogue(SHIPPED);
            let new = weights(&[("chat-demo", chat), ("complete-demo", complete)]);
            set_weights(&path, &new).unwrap();
            let read = Catalogue::load(&path).unwrap();
            let found: BTreeMap<_, _> =
                read.tasks().iter().map(|task| (task.id.clone(), task.weight)).collect();
            prop_assert_eq!(found, new);
        }
    }
}
