//! The tasks: prefixes to answer and the targets to compare with.

use crate::document::{Document, DocumentId, Text};
use crate::recipe;

/// Why a task cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No example was read, so that there is nothing to measure.
    #[error("task `{task}` has no examples")]
    Empty {
        /// The task.
        task: String,
    },
    /// A document of running text has no target.
    #[error("task `{task}` needs a prefix and a target, found running text in file {} row {}", id.file, id.row)]
    NoTarget {
        /// The task.
        task: String,
        /// The document.
        id: DocumentId,
    },
    /// The name would not do as a file's.
    #[error("task name `{task}` may hold letters, digits, `-`, `_` and `.` only, not first a `.`")]
    Name {
        /// The task.
        task: String,
    },
    /// Two tasks would write the same file.
    #[error("two tasks are named `{task}`")]
    Twice {
        /// The task.
        task: String,
    },
    /// The documents could not be read.
    #[error("cannot read the examples of task `{task}`")]
    Documents {
        /// The task.
        task: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Where it came from.
    pub id: DocumentId,
    /// What the model reads.
    pub prefix: String,
    /// What it should say.
    pub target: String,
}

/// A task whose examples are at hand; there is at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// As the recipe declares it.
    pub declared: recipe::Task,
    /// The first `limit` examples.
    pub examples: Vec<Example>,
}

impl Task {
    /// Takes the first `declared.limit` documents as the examples of a task.
    pub fn new<E>(
        declared: recipe::Task,
        documents: impl Iterator<Item = Result<Document, E>>,
    ) -> Result<Self, Error>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let task = declared.name.clone();
        if !is_file_name(&task) {
            return Err(Error::Name { task });
        }
        let limit = usize::try_from(declared.limit).unwrap_or(usize::MAX);
        let mut examples = Vec::new();
        for document in documents.take(limit) {
            let Document { id, text, .. } = document.map_err(|source| Error::Documents {
                task: task.clone(),
                source: source.into(),
            })?;
            match text {
                Text::Example { prefix, target } => examples.push(Example { id, prefix, target }),
                Text::Plain(_) => return Err(Error::NoTarget { task, id }),
            }
        }
        if examples.is_empty() {
            return Err(Error::Empty { task });
        }
        Ok(Self { declared, examples })
    }
}

/// Checks that no two tasks have one name.
pub fn check_names(tasks: &[Task]) -> Result<(), Error> {
    let mut seen = std::collections::BTreeSet::new();
    for Task { declared, .. } in tasks {
        if !seen.insert(&declared.name) {
            return Err(Error::Twice {
                task: declared.name.clone(),
            });
        }
    }
    Ok(())
}

fn is_file_name(name: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Notes;

    fn declared(name: &str, limit: u64) -> recipe::Task {
        let text = format!("name = {name:?}\nlimit = {limit}\nsources = []");
        toml::from_str(&text).unwrap()
    }

    fn documents(n: u64) -> impl Iterator<Item = Result<Document, crate::fs::Error>> {
        (0..n).map(|row| {
            Ok(Document {
                id: DocumentId { file: 0, row },
                text: Text::Example {
                    prefix: format!("{row}?"),
                    target: "yes".into(),
                },
                notes: Notes::default(),
            })
        })
    }

    #[test]
    fn the_first_documents_are_taken() {
        let task = Task::new(declared("a", 2), documents(5)).unwrap();
        let prefixes: Vec<&str> = task.examples.iter().map(|e| e.prefix.as_str()).collect();
        assert_eq!(prefixes, ["0?", "1?"]);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let new = |name: &str, limit, n| Task::new(declared(name, limit), documents(n));
        assert!(matches!(new("a", 5, 0), Err(Error::Empty { .. })));
        assert!(matches!(new("a", 0, 5), Err(Error::Empty { .. })));
        for name in ["", "..", "a/b", "a b"] {
            assert!(matches!(new(name, 5, 5), Err(Error::Name { .. })), "{name}");
        }
        let plain = Document {
            id: DocumentId { file: 1, row: 2 },
            text: Text::Plain("text".into()),
            notes: Notes::default(),
        };
        let error = Task::new(
            declared("a", 1),
            [Ok::<_, crate::fs::Error>(plain)].into_iter(),
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "task `a` needs a prefix and a target, found running text in file 1 row 2"
        );
        let task = new("a", 5, 5).unwrap();
        assert!(matches!(
            check_names(&[task.clone(), task]),
            Err(Error::Twice { .. })
        ));
    }
}
