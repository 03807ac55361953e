//! The library's errors as failures: how bad each is, and what to do about it.

use std::error::Error;

use pausedata::run::datasets;
use pausedata::{
    convert, corpus, dataset, inspect, loader, manifest, prepare, shard, tokenize, verify,
};

use super::failure::{Failure, Kind, disk_advice};

/// An error of the library that a user may meet.
pub trait Explain: Error {
    /// How bad it is.
    fn kind(&self) -> Kind {
        Kind::Failed
    }

    /// What to do about it.
    fn advice(&self) -> Option<String> {
        None
    }
}

impl<E: Explain + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        if error.kind() == Kind::Stopped {
            return Self::stopped();
        }
        let failure = Self::of(error.kind(), &error);
        let below = || of_source(&error).or_else(|| disk_advice(&error).map(String::from));
        match error.advice().or_else(below) {
            Some(advice) => failure.hint(advice),
            None => failure,
        }
    }
}

/// What to do about a source, where that is what another error comes from.
fn of_source(error: &(dyn Error + 'static)) -> Option<String> {
    std::iter::successors(Some(error), |&error| error.source())
        .find_map(<dyn Error>::downcast_ref::<corpus::Error>)?
        .hint()
}

impl Explain for manifest::Error {
    fn kind(&self) -> Kind {
        match self {
            Self::File(_) => Kind::Failed,
            _ => Kind::Damaged,
        }
    }

    fn advice(&self) -> Option<String> {
        self.hint().map(String::from)
    }
}

impl Explain for dataset::Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NoRow { .. } | Self::Policy { .. } | Self::Online { .. } => Kind::BadInput,
            _ => Kind::Damaged,
        }
    }

    fn advice(&self) -> Option<String> {
        self.hint().map(String::from)
    }
}

impl Explain for loader::Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Row { .. } => Kind::Damaged,
            Self::Spawn(_) | Self::Thread { .. } => Kind::Failed,
            _ => Kind::BadInput,
        }
    }

    fn advice(&self) -> Option<String> {
        self.hint().map(String::from)
    }
}

impl Explain for loader::Clash {
    fn kind(&self) -> Kind {
        Kind::BadInput
    }

    fn advice(&self) -> Option<String> {
        Some(self.hint().into())
    }
}

impl Explain for loader::StateError {
    fn kind(&self) -> Kind {
        match self {
            Self::File(_) => Kind::Failed,
            Self::Json { .. } => Kind::BadInput,
        }
    }

    fn advice(&self) -> Option<String> {
        self.hint().map(String::from)
    }
}

impl Explain for convert::Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Stopped => Kind::Stopped,
            Self::Exists { .. }
            | Self::Strange { .. }
            | Self::AtLoad { .. }
            | Self::WideIds { .. } => Kind::BadInput,
            Self::Dataset(error) => error.kind(),
            Self::Manifest(error) => error.kind(),
            Self::Shard(error) => error.kind(),
            Self::Record { .. } | Self::Changed { .. } => Kind::Damaged,
            Self::File(_) | Self::Inexact { .. } => Kind::Failed,
        }
    }

    fn advice(&self) -> Option<String> {
        self.hint().map(String::from)
    }
}

impl Explain for shard::Error {
    fn advice(&self) -> Option<String> {
        self.hint().map(String::from)
    }
}

impl Explain for corpus::Error {
    fn advice(&self) -> Option<String> {
        self.hint()
    }
}

impl Explain for tokenize::Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Begin { .. } => Kind::BadInput,
            _ => Kind::Failed,
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::Begin { .. } => Some(
                "name a special token of `tokenizer.json`, such as `<s>`, or leave `begin` out"
                    .into(),
            ),
            _ => None,
        }
    }
}

impl Explain for inspect::Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Dataset(error) => error.kind(),
            Self::NoRow { .. } => Kind::BadInput,
            Self::Tokenize(error) => error.kind(),
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::Dataset(error) => error.advice(),
            Self::NoRow { .. } | Self::Tokenize(_) => None,
        }
    }
}

impl Explain for verify::Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Stopped => Kind::Stopped,
            Self::NotSealed(error) => error.kind(),
            Self::File(_) | Self::Scratch(_) => Kind::Failed,
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::Scratch(_) => {
                Some("name a folder that you may write to with `--temp-dir`".into())
            }
            Self::NotSealed(error) => error.advice(),
            Self::File(_) | Self::Stopped => None,
        }
    }
}

impl Explain for prepare::Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Stopped => Kind::Stopped,
            Self::Missing { .. } | Self::Record { .. } => Kind::Damaged,
            Self::Dataset(error) => error.kind(),
            Self::Manifest(error) => error.kind(),
            _ => Kind::Failed,
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::OtherRecipe { .. } => Some(
                "prepare into another folder with `--out DIR`, or replace it with `--force`".into(),
            ),
            Self::Corpus(error) => error.advice(),
            Self::Shard(error) => error.advice(),
            Self::Dataset(error) => error.advice(),
            Self::Manifest(error) => error.advice(),
            Self::Missing { .. } => Some(
                "run the partitions that make them again, or `pausedata prepare RECIPE`, which makes them and seals".into(),
            ),
            Self::Record { .. } => Some(
                "remove this file and run the same command again: its unit is prepared anew".into(),
            ),
            Self::Curate { .. } => Some("leave `normalize` out of this stage".into()),
            Self::Empty { reasons, .. } if reasons.contains(prepare::judge::TOO_LONG) => {
                Some("raise `pack.seq_len`, or ask for fewer pauses".into())
            }
            Self::Pause(_) => Some("change `pause` or `pack.seq_len` in the recipe".into()),
            _ => None,
        }
    }
}

impl Explain for datasets::Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Prepare { source, .. } => source.kind(),
            Self::Recipe(_) | Self::NoTokenizer => Kind::BadInput,
            Self::Unproved { .. } => Kind::Damaged,
            Self::Verify(error) => error.kind(),
            Self::Tokenize(error) => error.kind(),
            _ => Kind::Failed,
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::Prepare { source, .. } => source.advice(),
            Self::Tokenize(error) => error.advice(),
            Self::Unproved { folder, .. } => {
                Some(format!("`pausedata verify {}` names what is wrong", folder.display()))
            }
            Self::NoCheckpoint(_) => {
                Some("train the model that `model.from` names first".into())
            }
            Self::NoTokenizer => {
                Some("add `[tokenizer]` with `train = { vocab_size = 2048 }` or `file = \"tokenizer.json\"`".into())
            }
            _ => None,
        }
    }
}

#[cfg(feature = "train")]
mod training {
    use pausedata::train::checkpoint;
    use pausedata::{eval, experiment, generate, model, report, run::training, train, transfer};

    use super::{Explain, Kind};

    impl Explain for training::Error {
        fn kind(&self) -> Kind {
            match self {
                Self::Stopped { .. } => Kind::Stopped,
                Self::Datasets(error) => error.kind(),
                Self::Dataset(error) => error.kind(),
                Self::Untrained | Self::Shape(_) => Kind::BadInput,
                Self::Eval(error) => error.kind(),
                Self::Generate(error) => error.kind(),
                Self::Train { source, .. } => source.kind(),
                _ => Kind::Failed,
            }
        }

        fn advice(&self) -> Option<String> {
            match self {
                Self::Datasets(error) => error.advice(),
                Self::Dataset(error) => error.advice(),
                Self::Train { source, .. } => source.advice(),
                Self::Checkpoint(error) => error.hint(),
                Self::Corpus(error) => error.advice(),
                Self::Eval(error) => error.advice(),
                Self::Generate(error) => error.advice(),
                _ => None,
            }
        }
    }

    impl Explain for experiment::Error {
        fn kind(&self) -> Kind {
            match self {
                Self::Recipe(_) | Self::NoArms => Kind::BadInput,
                Self::Datasets(error) => error.kind(),
                Self::Arm { source, .. } => source.kind(),
                Self::Checkpoint(_) | Self::Answers { .. } | Self::Uneven { .. } => Kind::Damaged,
                Self::Unreadable { .. } => Kind::Damaged,
                Self::File(_) | Self::Record(_) => Kind::Failed,
            }
        }

        fn advice(&self) -> Option<String> {
            match self {
                Self::NoArms => Some("add `[experiment]` with `seeds = [1, 2, 3, 4, 5]`".into()),
                Self::Datasets(error) => error.advice(),
                Self::Arm { source, .. } => source.advice(),
                Self::Checkpoint(error) => error.hint(),
                Self::Answers { path, .. } | Self::Unreadable { path, .. } => Some(format!(
                    "remove `{}` and run the same command again",
                    path.parent().unwrap_or(path).display()
                )),
                Self::Uneven { folder, .. } => Some(format!(
                    "the task's files have changed: remove `{}` and the `eval` of the other arms, \
                     and run the same command again",
                    folder.display()
                )),
                _ => None,
            }
        }
    }

    impl Explain for train::Error {
        fn kind(&self) -> Kind {
            match self {
                Self::Dataset(_) | Self::Checkpoint(_) => Kind::Damaged,
                Self::Loader(error) => error.kind(),
                Self::Clash(clash) => clash.kind(),
                Self::FewBatches { .. } => Kind::BadInput,
                Self::Kernels(error) => error.kind(),
                _ => Kind::Failed,
            }
        }

        fn advice(&self) -> Option<String> {
            self.hint()
        }
    }

    impl Explain for train::kernels::Refused {
        fn kind(&self) -> Kind {
            Kind::BadInput
        }

        fn advice(&self) -> Option<String> {
            Some(self.hint().into())
        }
    }

    impl Explain for eval::Error {
        fn kind(&self) -> Kind {
            match self {
                Self::Stopped { .. } => Kind::Stopped,
                _ => Kind::Failed,
            }
        }
    }

    impl Explain for generate::Error {
        fn kind(&self) -> Kind {
            match self {
                Self::Checkpoint(checkpoint::Error::Missing { .. })
                | Self::NotOurs { .. }
                | Self::Sampling(_)
                | Self::TooLong { .. } => Kind::BadInput,
                Self::Checkpoint(_) => Kind::Damaged,
                _ => Kind::Failed,
            }
        }

        fn advice(&self) -> Option<String> {
            match self {
                Self::Checkpoint(error) => error.hint(),
                Self::NotOurs { .. } => Some(
                    "`pausedata import` makes a checkpoint of a model of another program".into(),
                ),
                Self::TooLong { .. } => Some("shorten the prompt, or give fewer `--pauses`".into()),
                _ => None,
            }
        }
    }

    impl Explain for transfer::Error {
        fn kind(&self) -> Kind {
            match self {
                Self::File(error) if error.is_missing() => Kind::BadInput,
                Self::File(_) | Self::Hub(_) => Kind::Failed,
                Self::Checkpoint(error) => match error {
                    checkpoint::Error::Missing { .. } => Kind::BadInput,
                    _ => Kind::Damaged,
                },
                _ => Kind::BadInput,
            }
        }

        fn advice(&self) -> Option<String> {
            self.hint()
        }
    }

    impl Explain for report::training::Error {
        fn kind(&self) -> Kind {
            match self {
                Self::Nothing { .. } => Kind::BadInput,
                Self::Results { .. } => Kind::Damaged,
                Self::Record(_) | Self::File(_) => Kind::Failed,
            }
        }
    }

    impl Explain for model::Error {
        fn kind(&self) -> Kind {
            Kind::BadInput
        }

        fn advice(&self) -> Option<String> {
            Some(match self {
                Self::Incomplete { hint, .. } => {
                    format!("{hint}; `--device cpu` trains without a GPU")
                }
                Self::UnknownKernels { .. } | Self::Shape { .. } => {
                    "leave `--kernels` out, or say `--kernels burn`".into()
                }
                Self::Several { .. } => "name one of them".into(),
                Self::Twice { .. } => {
                    "name each GPU once; only the CPU may be named several times, as in `cpu,cpu`"
                        .into()
                }
                _ => "`pausedata doctor` shows the devices of this machine".into(),
            })
        }
    }
}
