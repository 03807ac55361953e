//! Values of arguments that are more than a number or a path.

use std::path::Path;
use std::str::FromStr;

use clap::ValueEnum;
use pausedata::dataset::{self, Dataset};
use pausedata::{manifest, pause, shard};

use super::failure::Failure;

/// One stage of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Pretraining on running text
    Pretrain,
    /// Finetuning on prefixes and targets
    Finetune,
}

impl From<Stage> for manifest::Stage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Pretrain => Self::Pretrain,
            Stage::Finetune => Self::Finetune,
        }
    }
}

/// Whose operations train.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kernels {
    /// Our own where they agree with the CPU's, else burn's
    Auto,
    /// burn's
    Burn,
    /// Our own, or none
    Own,
}

/// Where to train, and with whose operations.
#[derive(Clone, Debug, clap::Args)]
pub struct On {
    /// Where to train: auto, cpu, cuda, cuda:<index>; or several that share each batch:
    /// cuda:0,1, cuda:all, cpu,cpu
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: String,
    /// Whose operations train: our own where they agree with the CPU's on a small model, else
    /// burn's (auto), burn's (burn), or our own or none (own)
    #[arg(
        long,
        default_value = "auto",
        value_name = "auto|burn|own",
        hide_possible_values = true
    )]
    kernels: Kernels,
}

#[cfg(feature = "train")]
impl On {
    /// The device, opened.
    pub fn open(&self) -> Result<pausedata::run::training::On, Failure> {
        use pausedata::train::kernels::Wish;
        Ok(pausedata::run::training::On {
            devices: pausedata::model::devices(&self.device)?,
            kernels: match self.kernels {
                Kernels::Auto => Wish::Auto,
                Kernels::Burn => Wish::Burn,
                Kernels::Own => Wish::Own,
            },
        })
    }
}

/// Pauses that rows get when they are read.
#[derive(Clone, Debug, clap::Args)]
pub struct Pause {
    /// Read rows with these pauses in place of the dataset's own: a recipe's `pause` table; for
    /// datasets that were prepared without pauses, or with `when = "at-load"`
    #[arg(long = "pause", value_name = "TABLE", value_parser = pause_table)]
    table: Option<pause::Config>,
}

impl Pause {
    /// What was asked for.
    pub fn config(&self) -> Option<&pause::Config> {
        self.table.as_ref()
    }

    /// The dataset in a folder, with these pauses.
    pub fn open(&self, folder: &Path) -> Result<Dataset, Failure> {
        self.apply(Dataset::open(folder)?)
    }

    /// A dataset with these pauses.
    pub fn apply(&self, dataset: Dataset) -> Result<Dataset, Failure> {
        Ok(match self.config() {
            Some(config) => dataset.with_pause(config.clone())?,
            None => dataset,
        })
    }
}

fn pause_table(text: &str) -> Result<pause::Config, String> {
    #[derive(serde::Deserialize)]
    struct Stage {
        pause: pause::Config,
    }
    let stage: Stage = toml::from_str(&format!("pause = {text}")).map_err(|error| {
        let problem = error.message();
        format!("{problem}: expected a table, as in {{ policy = \"random\", fraction = 0.1 }}")
    })?;
    Ok(stage.pause.at_load())
}

/// One part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Split {
    /// Rows that are trained on
    Train,
    /// Rows held out for the validation loss
    Validation,
}

impl From<Split> for manifest::Split {
    fn from(split: Split) -> Self {
        match split {
            Split::Train => Self::Train,
            Split::Validation => Self::Validation,
        }
    }
}

/// How the files of a dataset are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reading {
    /// Mapped into memory: the fastest on disks of this machine
    Mmap,
    /// By calls that read at a position: for network file systems
    Pread,
}

impl From<Reading> for shard::Reading {
    fn from(reading: Reading) -> Self {
        match reading {
            Reading::Mmap => Self::Mmap,
            Reading::Pread => Self::Pread,
        }
    }
}

/// How a command reads datasets.
#[derive(Clone, Debug, clap::Args)]
pub struct Reads {
    /// How files are read
    #[arg(long = "read", value_name = "HOW", default_value = "mmap")]
    pub how: Reading,
    /// Do not compare the checksum of a block when a row first touches it
    #[arg(long)]
    pub no_verify: bool,
}

impl Reads {
    /// Opens a dataset so.
    pub fn open(&self, folder: &Path) -> Result<Dataset, dataset::Error> {
        let dataset = Dataset::open_by(self.how.into(), folder)?;
        if self.no_verify {
            dataset.trust_blocks();
        }
        Ok(dataset)
    }
}

/// Which part of the work this process does: `2/4` is the second of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected i/n with i from 1 to n, as in 2/4, found `{text}`");
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let index: usize = index.parse().map_err(|_| wrong())?;
        let count = count.parse().map_err(|_| wrong())?;
        if index < 1 || count < index {
            return Err(wrong());
        }
        Ok(Self {
            index: index - 1,
            count,
        })
    }
}

/// A share of all there is, from 0 to 1: `1%` is 0.01.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text.strip_suffix('%').and_then(|n| n.parse::<f64>().ok());
        percent
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(|percent| Self(percent / 100.0))
            .ok_or_else(|| {
                format!("expected a percentage from 0% to 100%, as in 1%, found `{text}`")
            })
    }
}

/// Weights of several datasets, from a batch on: `1000:3,1`, or `3,1` from the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// The batch.
    pub from: u64,
    /// One for each dataset.
    pub weights: Vec<f64>,
}

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected weights as in 3,1 or 1000:3,1, found `{text}`");
        let (from, weights) = text.split_once(':').unwrap_or(("0", text));
        let weights = weights.split(',').map(str::parse);
        Ok(Self {
            from: from.parse().map_err(|_| wrong())?,
            weights: weights.collect::<Result<_, _>>().map_err(|_| wrong())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages() {
        let share = |text: &str| text.parse::<Share>().ok().map(|share| share.0);
        assert_eq!(share("1%"), Some(0.01));
        assert_eq!(share("100%"), Some(1.0));
        assert_eq!(share("0.5%"), Some(0.005));
        for wrong in ["1", "101%", "-1%", "%", "NaN%", "all"] {
            assert_eq!(share(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn weights_may_start_later() {
        let weights = |text: &str| text.parse::<Weights>().ok();
        let of = |from, weights: &[f64]| {
            Some(Weights {
                from,
                weights: weights.into(),
            })
        };
        assert_eq!(weights("3,1"), of(0, &[3.0, 1.0]));
        assert_eq!(weights("1000:0.5"), of(1000, &[0.5]));
        for wrong in ["", "a", "1;2", "1:", ":1", "-1:2", "1,,2"] {
            assert_eq!(weights(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn partitions_count_from_one() {
        let partition = |text: &str| text.parse::<Partition>().ok();
        assert_eq!(partition("1/1"), Some(Partition { index: 0, count: 1 }));
        assert_eq!(partition("7/7"), Some(Partition { index: 6, count: 7 }));
        for wrong in ["0/4", "5/4", "1/0", "1", "a/b", "-1/2", "1/2/3"] {
            assert_eq!(partition(wrong), None, "{wrong}");
        }
    }
}
