//! Datasets that can be mixed.

use std::path::PathBuf;

use crate::dataset::Dataset;
use crate::manifest::Stage;

/// A dataset that cannot be mixed with another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` cannot be mixed with `{}`: its {what} is {found}, expected {expected}",
    folder.display(), first.display()
)]
pub struct Clash {
    /// The dataset.
    pub folder: PathBuf,
    /// The one that it should be like.
    pub first: PathBuf,
    /// What differs.
    pub what: &'static str,
    /// That of the first.
    pub expected: String,
    /// Its own.
    pub found: String,
}

impl Clash {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self.what {
            "stage" => "mix datasets of one stage",
            _ => {
                "prepare both with one tokenizer: `tokenizer = { file = \"..\" }` takes the `tokenizer.json` of the other dataset"
            }
        }
    }
}

/// Checks that rows of all datasets mean the same to one model: one tokenizer, the
/// same reserved ids, and the same stage.
pub fn together<'a>(datasets: impl IntoIterator<Item = &'a Dataset>) -> Result<(), Box<Clash>> {
    let mut datasets = datasets.into_iter();
    let Some(first) = datasets.next() else {
        return Ok(());
    };
    let expected = parts(first);
    for dataset in datasets {
        let parts = parts(dataset).into_iter().zip(&expected);
        for ((what, found), (_, expected)) in parts {
            if found != *expected {
                return Err(Box::new(Clash {
                    folder: dataset.folder.clone(),
                    first: first.folder.clone(),
                    what,
                    expected: expected.clone(),
                    found,
                }));
            }
        }
    }
    Ok(())
}

fn parts(dataset: &Dataset) -> [(&'static str, String); 3] {
    let manifest = &dataset.manifest;
    let stage = match manifest.stage {
        Stage::Pretrain => "pretrain",
        Stage::Finetune => "finetune",
    };
    let tokenizer = &manifest.tokenizer;
    [
        ("stage", stage.into()),
        ("tokenizer", tokenizer.digest.short()),
        ("reserved ids", format!("{:?}", tokenizer.reserved)),
    ]
}
