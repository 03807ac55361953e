//! `pausedata load`: batches for training loops of other programs.

use std::io::{self, IsTerminal};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use pausedata::dataset::Dataset;
use pausedata::loader::mixture::Phase;
use pausedata::loader::{Config, Loader, Order, Rows, Share, State, stream, together};
use pausedata::manifest::Stage;
use pausedata::pause::Fields;
use pausedata::progress::{Progress, Stop};
use pausedata::token::IdWidth;

use super::Outcome;
use super::failure::{Failure, Kind};
use super::ui::{self, Ui};
use super::values::{Pause, Reads, Split, Weights};

/// Batches that are made ready while one is written.
const PREFETCHED: usize = 2;

const HELP: &str = "\
Examples:
  pausedata load runs/quickstart/data/pretrain --rows 32 | python3 train.py
  pausedata load runs/quickstart/data/pretrain --rows 2 --batches 1 --format jsonl
  pausedata load a/data/pretrain b/data/pretrain --weights 3,1 --weights 5000:1,1 --rows 32
  pausedata load runs/quickstart/data/pretrain --rows 32 --rank 0 --world 8 --from 4000
  pausedata load runs/shared/pretrain --pause '{ policy = \"random\", fraction = 0.2 }' --rows 32

Batch k depends on the datasets, their weights, --seed, --rows and k alone: a program that
counts its batches stops at any of them and goes on with `--from K`, with as many ranks as
it likes. Every row comes once an epoch.

`npy` is an array a batch for each of --fields, with a header. To read them from a pipe:

  def arrays(pipe):
      while pipe.peek(1):
          numpy.lib.format.read_magic(pipe)
          shape, _, kind = numpy.lib.format.read_array_header_1_0(pipe)
          data = pipe.read(math.prod(shape) * kind.itemsize)
          yield numpy.frombuffer(data, kind).reshape(shape)
  for ids, targets, weights in zip(*[arrays(pipe)] * 3): ...";

/// Stream the batches of datasets to the training loop of another program
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Datasets: folders with a manifest.json, made with one tokenizer
    #[arg(value_name = "DATASET", required = true)]
    pub datasets: Vec<PathBuf>,
    /// Rows of a global batch, over all ranks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rows: u32,
    /// Decides the order of rows
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// The first global batch, from 0; where --state stopped, if it did
    #[arg(long, value_name = "K")]
    pub from: Option<u64>,
    /// Global batches to write, at most; without end where neither this nor --epochs is given
    #[arg(long, value_name = "N")]
    pub batches: Option<u64>,
    /// End with the last row of this many epochs of one dataset; the last batch may be shorter
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: Option<u64>,
    /// Which of --world processes this is, from 0: it gets the rows R, R + world, ... of a batch
    #[arg(long, default_value_t = 0, value_name = "R")]
    pub rank: usize,
    /// How many processes share a global batch
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub world: usize,
    /// How many rows each of several datasets gives beside the others: `3,1`; or `K:1,1` from
    /// batch K on
    #[arg(long, value_name = "[K:]W,W")]
    pub weights: Vec<Weights>,
    /// Which part of the datasets
    #[arg(long, default_value = "train", value_name = "SPLIT")]
    pub split: Split,
    /// Take rows as they stand, not in a random order
    #[arg(long)]
    pub sequential: bool,
    /// Sort rows by length among N batches, so that little is padding; 0 leaves them unsorted
    #[arg(
        long,
        default_value_t = 0,
        value_name = "N",
        conflicts_with = "sequential"
    )]
    pub bucket: u64,
    #[command(flatten)]
    pub pause: Pause,
    /// How batches are written; `jsonl` with --json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// The arrays of `npy`, in this order [default: ids,targets,weights]
    #[arg(long, value_delimiter = ',', value_name = "FIELD,..")]
    pub fields: Option<Vec<Field>>,
    /// Keep here what was written, and go on from it; other datasets or arguments are refused
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    #[command(flatten)]
    pub reads: Reads,
}

/// How batches are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// NumPy arrays: those of --fields
    Npy,
    /// Ids alone, 2 bytes each, in padded rows of the datasets' longest
    U16,
    /// An object a row
    Jsonl,
}

/// One array of a batch: a number for each position, unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Field {
    /// Ids (int32)
    Ids,
    /// Ids as narrow as in the shards (uint16 or uint32)
    NarrowIds,
    /// Targets (int32); -100 where nothing is scored
    Targets,
    /// Weights of targets (float32)
    Weights,
    /// Whether a target counts: 8 positions a byte, the lowest bit first (uint8)
    Scored,
    /// Places in the document, from 0 (int32)
    Positions,
    /// Documents of the row, from 0 (int32); -1 for padding
    Documents,
    /// A number a row: how many ids are prefix (int32)
    Prefixes,
    /// A number a row: how many ids it has before its padding (int32)
    Lengths,
}

impl From<Field> for stream::Field {
    fn from(field: Field) -> Self {
        match field {
            Field::Ids => Self::Ids,
            Field::NarrowIds => Self::NarrowIds,
            Field::Targets => Self::Targets,
            Field::Weights => Self::Weights,
            Field::Scored => Self::Scored,
            Field::Positions => Self::Positions,
            Field::Documents => Self::Documents,
            Field::Prefixes => Self::Prefixes,
            Field::Lengths => Self::Lengths,
        }
    }
}

/// Runs the command.
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    let folders = args.datasets.iter();
    let datasets = folders.map(|folder| args.pause.apply(args.reads.open(folder)?));
    let datasets = datasets.collect::<Result<Vec<_>, Failure>>()?;
    together(&datasets).map_err(|clash| *clash)?;
    let format = format(args, ui, &datasets)?;
    let loader = Arc::new(loader(args, datasets)?);
    let batches = batches(args, &loader)?;
    if let Some(note) = loader.bucket_note(batches.clone()) {
        ui.note(&note);
    }
    save(args, &loader, batches.start)?;
    // Without a file for its state there is nothing to save before an end.
    let stop = match &args.state {
        Some(_) => ui.stop_on_signal()?,
        None => Stop::default(),
    };
    let (next, written) = write(&loader, batches, &format, &stop, ui);
    save(args, &loader, next)?;
    written.map(|()| Outcome::Done)
}

/// Writes batches until all are written or somebody asks to stop; the next one is told.
fn write(
    loader: &Arc<Loader>,
    batches: Range<u64>,
    format: &stream::Format,
    stop: &Stop,
    ui: &Ui,
) -> (u64, Result<(), Failure>) {
    let mut bytes = Vec::new();
    let mut next = batches.start;
    for batch in loader
        .clone()
        .prefetch(batches.start, batches.end, PREFETCHED)
    {
        let written = batch.map_err(Failure::from).and_then(|batch| {
            bytes.clear();
            let rows = loader.rows_of(batch.index);
            stream::write(&batch, &rows, format, &mut bytes)?;
            ui.write(&bytes)
        });
        if written.is_err() {
            return (next, written);
        }
        next += 1;
        if stop.requested() {
            return (next, Err(Failure::stopped()));
        }
    }
    (next, Ok(()))
}

fn loader(args: &Args, datasets: Vec<Dataset>) -> Result<Loader, Failure> {
    let rows = args.rows as usize;
    let config = Config {
        seed: args.seed,
        rows_per_batch: rows,
        rows_per_micro_batch: rows,
        split: args.split.into(),
        order: match args.sequential {
            true => Order::Sequential,
            false => Order::Shuffled,
        },
        bucket: args.bucket,
        share: Share {
            rank: args.rank,
            world: args.world,
        },
        epochs: args.epochs,
    };
    if 1 < datasets.len() && args.weights.is_empty() {
        let weights = vec!["1"; datasets.len()].join(",");
        let message = format!("{} datasets need `--weights`, found none", datasets.len());
        return Err(Failure::new(Kind::BadInput, message)
            .hint(format!("`--weights {weights}` takes as many rows of each")));
    }
    let phases = args.weights.iter().map(|weights| Phase {
        from: weights.from,
        weights: weights.weights.clone(),
    });
    let datasets = datasets.into_iter();
    let members = datasets.map(|dataset| Arc::new(dataset) as Arc<dyn Rows>);
    Ok(Loader::of_several(
        members.collect(),
        phases.collect(),
        config,
    )?)
}

/// Which batches are written: from where the state or the arguments say.
fn batches(args: &Args, loader: &Loader) -> Result<Range<u64>, Failure> {
    let state = match &args.state {
        Some(path) => State::read(path)?,
        None => None,
    };
    let kept = state.map(|state| loader.resume(&state)).transpose()?;
    let start = args.from.or(kept).unwrap_or(0);
    let end = loader.n_batches().unwrap_or(u64::MAX);
    let most = args.batches.unwrap_or(u64::MAX);
    Ok(start..end.min(start.saturating_add(most)))
}

fn save(args: &Args, loader: &Loader, next: u64) -> Result<(), Failure> {
    match &args.state {
        Some(path) => Ok(loader.state(next).write(path)?),
        None => Ok(()),
    }
}

/// The format asked for, if it can hold what the datasets say.
fn format(args: &Args, ui: &Ui, datasets: &[Dataset]) -> Result<stream::Format, Failure> {
    let default = match ui.format() {
        ui::Format::Text => Format::Npy,
        ui::Format::Json => Format::Jsonl,
    };
    let format = args.format.unwrap_or(default);
    if format != Format::Jsonl && io::stdout().is_terminal() {
        let failure = Failure::new(
            Kind::BadInput,
            "stdout is a terminal, which shows no arrays",
        );
        return Err(failure.hint("send them to a program with `|`, or use `--format jsonl`"));
    }
    if format != Format::Npy && args.fields.is_some() {
        let failure = Failure::new(
            Kind::BadInput,
            "`--fields` chooses arrays of `npy`, found another `--format`",
        );
        return Err(failure.hint("leave `--fields` out, or use `--format npy`"));
    }
    let length = datasets.iter().map(|dataset| dataset.manifest.row_length);
    match (format, datasets.first()) {
        (Format::Jsonl, _) => Ok(stream::Format::Jsonl),
        (Format::U16, Some(first)) => {
            check_bare(datasets)?;
            let pad = first.manifest.tokenizer.reserved.pad.0;
            Ok(stream::Format::U16 {
                length: length.max().unwrap_or(0),
                // Ids of two bytes are what has just been checked.
                pad: u16::try_from(pad).unwrap_or(u16::MAX),
            })
        }
        (Format::Npy | Format::U16, _) => {
            let usual = [Field::Ids, Field::Targets, Field::Weights];
            let fields = args.fields.as_deref().unwrap_or(&usual).iter();
            Ok(stream::Format::Npy(
                fields.map(|field| (*field).into()).collect(),
            ))
        }
    }
}

/// Checks that ids of two bytes say everything about the rows of some datasets.
fn check_bare(datasets: &[Dataset]) -> Result<(), Failure> {
    for Dataset {
        manifest, folder, ..
    } in datasets
    {
        let shards = manifest.splits.values().flat_map(|split| &split.shards);
        let problem = match (manifest.id_width, manifest.stage) {
            (IdWidth::U32, _) => "has ids of 4 bytes",
            (_, Stage::Finetune) => "has prefixes, which ids alone do not show",
            _ if manifest.pause.is_at_load() && manifest.pause.fields() != Fields::default() => {
                "has targets or pauses that ids alone do not show"
            }
            _ if shards.into_iter().any(|shard| shard.aux.is_some()) => {
                "has targets or pauses that ids alone do not show"
            }
            _ => continue,
        };
        let message = format!(
            "`{}` {problem}: expected another format than `u16`",
            folder.display()
        );
        return Err(Failure::new(Kind::BadInput, message).hint("use `--format npy`"));
    }
    Ok(())
}
