//! How fast a dataset becomes batches, on one thread.

use std::hint::black_box;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::clock::{Took, measure, private_bytes};
use crate::batch::Counts;
use crate::dataset::{self, Dataset};
use crate::digest::Digest;
use crate::fs;
use crate::loader::{self, Config, Loader, Order, Rows, Share};
use crate::manifest::{SHARDS, Split};
use crate::pause;
use crate::shard::{self, Reading, ShardSpec, ShardWriter};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// A dataset's folder.
    pub dataset: PathBuf,
    /// Which part of it.
    pub split: Split,
    /// Rows of a batch.
    pub rows_per_batch: usize,
    /// Decides the order of rows.
    pub seed: u64,
    /// Passes over the rows; the first finds every block unchecked.
    pub epochs: u64,
    /// How files are read.
    pub reading: Reading,
    /// Whether checksums are compared.
    pub checks: Checks,
    /// Whether the rows of a batch are asked for while the one before is made.
    pub read_ahead: bool,
    /// Whether the files are taken out of the system's memory first.
    pub cold: bool,
    /// Pauses in place of the dataset's own.
    pub pause: Option<pause::Config>,
    /// A new folder, in which the rows are written again, to measure that.
    pub write: Option<PathBuf>,
}

/// Whether the checksum of a block is compared when a row first touches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checks {
    /// As training does.
    FirstTouch,
    /// To see what it costs.
    None,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The dataset.
    pub dataset: Digest,
    /// Rows of the split.
    pub rows: u64,
    /// Rows of a batch.
    pub rows_per_batch: usize,
    /// How files were read.
    pub reading: Reading,
    /// Whether checksums were compared.
    pub checks: Checks,
    /// Whether the rows of a batch were asked for while the one before was made.
    pub read_ahead: bool,
    /// Whether the files were taken out of the system's memory before the first epoch and
    /// each first batch.
    pub cold: bool,
    /// Opening: manifest, tokenizer, headers and indexes are checked.
    pub open: Took,
    /// Milliseconds from an open dataset and a state in the middle of an epoch to the
    /// first batch, nothing of which was read before; one a trial.
    pub first_batch_ms: Vec<f64>,
    /// The epochs, one after the other.
    pub epochs: Vec<Epoch>,
    /// Bytes of memory that are this process's alone, before the dataset was opened.
    pub private_bytes_before: Option<u64>,
    /// The most of them at the end of an epoch.
    pub private_bytes: Option<u64>,
    /// Writing the rows again, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
}

/// Rows in memory that became shards, several times.
#[derive(Clone, Debug, Serialize)]
pub struct Written {
    /// The least time, with checks of every id, checksums, digests and fsync.
    #[serde(flatten)]
    pub took: Took,
    /// All times. Most of one may be that of finding memory: a virtual machine has given back
    /// to its host what nobody used for a second or two, and must be given it again.
    pub times: Vec<Took>,
    /// Ids of rows.
    pub tokens: u64,
    /// Ids a second of [`Took::cpu_seconds`].
    pub tokens_per_cpu_second: f64,
}

/// A pass over the rows of a split.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Epoch {
    /// Its time.
    #[serde(flatten)]
    pub took: Took,
    /// Batches made.
    pub batches: u64,
    /// Ids of rows, pauses included.
    pub tokens: u64,
    /// Targets that count.
    pub scored: u64,
    /// Ids a second of [`Took::cpu_seconds`].
    pub tokens_per_cpu_second: f64,
    /// Rows a second that passed.
    pub rows_per_second: f64,
    /// Milliseconds that passed while a batch was made.
    pub batch_ms: Latency,
}

/// How long batches took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The dataset cannot be opened.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// A batch cannot be made.
    #[error(transparent)]
    Loader(#[from] loader::Error),
    /// A shard cannot be written.
    #[error(transparent)]
    Shard(#[from] shard::Error),
    /// The folder to write to has something in it.
    #[error("`{}` exists: expected a new folder to write shards to", folder.display())]
    Exists {
        /// The folder.
        folder: PathBuf,
    },
}

/// Times that the first batch is measured, each with a dataset that was just opened.
const TRIALS: usize = 5;

impl Report {
    /// The share of one core's time that the loader takes beside a training that reads so
    /// many tokens a second, by the slowest epoch.
    pub fn share_at(&self, tokens_per_second: f64) -> f64 {
        let speeds = self.epochs.iter().map(|epoch| epoch.tokens_per_cpu_second);
        tokens_per_second / speeds.fold(f64::INFINITY, f64::min)
    }
}

/// Measures opening, the first batch, and whole epochs, on this thread.
pub fn run(options: &Options) -> Result<Report, Error> {
    let private_bytes_before = private_bytes();
    let first_batch_ms = (0..TRIALS).map(|_| first_batch_ms(options));
    let first_batch_ms = first_batch_ms.collect::<Result<_, Error>>()?;
    forget(options)?;
    let (dataset, open) = measure(|| open(options));
    let dataset = dataset?;
    let written = options.write.as_ref();
    let written = written.map(|folder| write(&dataset, options.split, folder));
    let written = written.transpose()?;
    let (digest, rows) = (dataset.digest, dataset.rows(options.split));
    let loader = loader(options, dataset)?;
    let n_batches = loader.n_batches().unwrap_or(0);
    let (mut epochs, mut most) = (Vec::new(), private_bytes_before);
    for epoch in 0..options.epochs {
        // A batch may have rows of two epochs.
        let edge = |epoch| n_batches * epoch / options.epochs;
        epochs.push(measure_epoch(
            &loader,
            edge(epoch)..edge(epoch + 1),
            options,
        )?);
        most = most.max(private_bytes());
    }
    Ok(Report {
        dataset: digest,
        rows,
        rows_per_batch: options.rows_per_batch,
        reading: options.reading,
        checks: options.checks,
        read_ahead: options.read_ahead,
        cold: options.cold,
        open,
        first_batch_ms,
        epochs,
        private_bytes_before,
        private_bytes: most,
        written,
    })
}

/// Writes the rows of a split again, shard by shard, some times, and removes what it wrote.
fn write(dataset: &Dataset, split: Split, folder: &Path) -> Result<Written, Error> {
    if folder.exists() {
        let folder = folder.to_path_buf();
        return Err(Error::Exists { folder });
    }
    let all = (0..WRITES).map(|_| write_once(dataset, split, folder));
    let (times, tokens): (Vec<_>, Vec<_>) = all.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    let least = |one: &&Took, other: &&Took| one.cpu_seconds.total_cmp(&other.cpu_seconds);
    let took = times.iter().min_by(least).copied().unwrap_or_default();
    let tokens = tokens.first().copied().unwrap_or(0);
    Ok(Written {
        took,
        times,
        tokens,
        tokens_per_cpu_second: tokens as f64 / took.cpu_seconds,
    })
}

/// Writes the rows of a split, and removes what it wrote; how many ids those were.
fn write_once(dataset: &Dataset, split: Split, folder: &Path) -> Result<(Took, u64), Error> {
    let (mut took, mut tokens) = (Took::default(), 0);
    for shard in dataset.shards(split) {
        let spec = ShardSpec::of(shard.header(), &dataset.manifest);
        let (writer, some) = measure(|| ShardWriter::create(folder, &shard.record().name, &spec));
        took += some;
        let mut writer = writer?;
        for start in (0..shard.rows()).step_by(WRITTEN_ROWS) {
            let rows = start..shard.rows().min(start + WRITTEN_ROWS as u64);
            let rows = rows.map(|row| shard.row(row));
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            let (pushed, some) = measure(|| rows.iter().try_for_each(|row| writer.push(row)));
            took += some;
            pushed?;
        }
        let (written, some) = measure(|| writer.finish());
        took += some;
        tokens += written?.ids;
    }
    fs::remove_dir(folder).map_err(shard::Error::from)?;
    Ok((took, tokens))
}

/// How often the rows are written.
const WRITES: usize = 3;

/// Rows are written so many at a time, as they come from preparation: still in the cache.
const WRITTEN_ROWS: usize = 64;

fn open(options: &Options) -> Result<Dataset, Error> {
    let dataset = Dataset::open_by(options.reading, &options.dataset)?;
    if options.checks == Checks::None {
        dataset.trust_blocks();
    }
    Ok(match &options.pause {
        Some(pause) => dataset.with_pause(pause.clone())?,
        None => dataset,
    })
}

fn loader(options: &Options, dataset: Dataset) -> Result<Loader, Error> {
    let config = Config {
        seed: options.seed,
        rows_per_batch: options.rows_per_batch,
        rows_per_micro_batch: options.rows_per_batch,
        split: options.split,
        order: Order::Shuffled,
        bucket: 0,
        share: Share::WHOLE,
        epochs: Some(options.epochs),
    };
    let rows: Arc<dyn Rows> = Arc::new(dataset);
    Ok(Loader::new(rows, config)?)
}

/// Takes the files of shards out of the system's memory, where that is asked for.
fn forget(options: &Options) -> Result<(), Error> {
    if options.cold {
        let files = fs::list(&options.dataset.join(SHARDS)).map_err(shard::Error::from)?;
        for file in files {
            fs::forget(&file).map_err(shard::Error::from)?;
        }
    }
    Ok(())
}

/// Goes on in the middle of the first epoch with a dataset nobody has read from yet.
fn first_batch_ms(options: &Options) -> Result<f64, Error> {
    forget(options)?;
    let dataset = open(options)?;
    let middle = dataset.rows(options.split) / options.rows_per_batch.max(1) as u64 / 2;
    // Where another process stopped.
    let state = loader(options, open(options)?)?.state(middle);
    let start = Instant::now();
    let loader = loader(options, dataset)?;
    black_box(loader.batch(loader.resume(&state)?)?);
    Ok(1e3 * start.elapsed().as_secs_f64())
}

/// Makes some batches one after the other, and drops them.
fn measure_epoch(loader: &Loader, batches: Range<u64>, options: &Options) -> Result<Epoch, Error> {
    let n_batches = batches.end - batches.start;
    let mut times = Vec::with_capacity(usize::try_from(n_batches).unwrap_or(0));
    let (mut counts, mut rows) = (Counts::default(), 0);
    let made: Box<dyn Iterator<Item = _>> = match options.read_ahead {
        true => Box::new(loader.batches(batches)),
        false => Box::new(batches.map(|k| loader.batch(k))),
    };
    let (made, took) = measure(|| {
        let mut start = Instant::now();
        for batch in made {
            let batch = black_box(batch?);
            counts += batch.counts;
            rows += batch
                .micro_batches
                .iter()
                .map(|micro| micro.rows)
                .sum::<usize>();
            drop(batch);
            let end = Instant::now();
            times.push(1e3 * end.duration_since(start).as_secs_f64());
            start = end;
        }
        Ok::<(), Error>(())
    });
    made?;
    times.sort_by(f64::total_cmp);
    let tokens = counts.real + counts.pauses;
    Ok(Epoch {
        took,
        batches: n_batches,
        tokens,
        scored: counts.scored,
        tokens_per_cpu_second: tokens as f64 / took.cpu_seconds,
        rows_per_second: rows as f64 / took.wall_seconds,
        batch_ms: Latency::of(&times),
    })
}

impl Latency {
    /// The percentiles of sorted times, each by its nearest rank.
    fn of(sorted: &[f64]) -> Self {
        let rank = |percent: usize| (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        let at = |percent| sorted.get(rank(percent)).copied().unwrap_or(0.0);
        Self {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        let of = |n: usize| {
            let Latency { p50, p99, max } = Latency::of(&times[..n]);
            [p50, p99, max]
        };
        assert_eq!(of(200), [100.0, 198.0, 200.0]);
        assert_eq!(of(3), [2.0, 3.0, 3.0]);
        assert_eq!(of(1), [1.0; 3]);
        assert_eq!(of(0), [0.0; 3]);
    }
}
