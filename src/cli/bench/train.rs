//! `pausedata bench train` and `bench parity`: training, measured and compared.

use std::path::PathBuf;

use super::super::Outcome;
use super::super::failure::Failure;
use super::super::ui::Ui;

/// Arguments of `bench train`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata --threads 1 bench train --ceiling
  pausedata bench train pipelines/novels.toml --set pretrain.train.steps=20 --json
  pausedata bench train --set model.preset=micro --set pretrain.train.steps=200 --warm 50
  pausedata bench train --dump exchange    (for a program that does the same run)

Rows are those of a random walk, as long as the recipe's, with its pauses; sources and
tokenizer are not needed. The recipe's `pretrain.train.steps` are done.")]
pub struct Train {
    /// The recipe whose pretraining is measured; a GPT-2 of 10.8 M parameters where absent
    #[arg(value_name = "RECIPE")]
    pub recipe: Option<PathBuf>,
    /// Change one key of the recipe, as in model.n_layers=2; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Train on the rows of this dataset
    #[arg(long, value_name = "DIR")]
    pub dataset: Option<PathBuf>,
    /// Take the first weights, and batches if there are any, from the arrays of a folder
    #[arg(long, value_name = "DIR")]
    pub load: Option<PathBuf>,
    /// Write recipe, weights, batches, first gradients and losses into a folder of arrays
    #[arg(long, value_name = "DIR")]
    pub dump: Option<PathBuf>,
    /// Steps before the time is taken
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub warm: u64,
    /// Measure this machine's matrix product first, and tell what share of it training reaches
    #[arg(long)]
    pub ceiling: bool,
    /// Where to train: auto, cpu, cuda:<index>; or several that share each batch: cuda:0,1,
    /// cuda:all, cpu,cpu
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Whose operations run: burn's (burn), or our own with products in f32 or bf16; as
    /// `train.precision` of the recipe says where absent
    #[arg(long, default_value = "auto", value_name = "auto|burn|f32|bf16")]
    pub kernels: String,
    /// Train adapters of this rank, and leave the model's own weights as they are
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u16).range(1..))]
    pub lora: Option<u16>,
}

/// Arguments of `bench parity`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata bench parity data/parity/gpt2
  pausedata bench parity exchange --recipe gpt2.toml --json

A folder of arrays is one that `bench train --dump` or another program has written:
init.NAME.npy, grad.NAME.npy, batch.STEP.MICRO.ids.npy and .targets.npy (-100 where nothing
is scored), losses.npy, norms.npy and, if it likes, final.NAME.npy; or all of them in one
arrays.safetensors. Names are those of ARCHITECTURE.md. Exit code 1 says that runs differ.")]
pub struct Parity {
    /// The folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The recipe of the run; recipe.toml of the folder where absent
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<PathBuf>,
    /// Change one key of the recipe, as in model.n_layers=2; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// How far the loss of the first step may be off, in nats
    #[arg(long, value_name = "X", default_value_t = 1e-5)]
    pub loss: f64,
    /// How far the first gradient of any parameter may be off, over its length
    #[arg(long, value_name = "X", default_value_t = 1e-5)]
    pub gradient: f64,
    /// How far the loss of any step may be off, in nats
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    pub curve: f64,
    /// Where to train: auto, cpu or cuda:<index>
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Whose operations run: burn's (burn), or our own with products in f32 or bf16; as
    /// `train.precision` of the recipe says where absent
    #[arg(long, default_value = "auto", value_name = "auto|burn|f32|bf16")]
    pub kernels: String,
}

/// Runs `bench train`.
#[cfg(feature = "train")]
pub fn execute(args: &Train, ui: &Ui) -> Result<Outcome, Failure> {
    with_training::execute(args, ui)
}

/// Runs `bench parity`.
#[cfg(feature = "train")]
pub fn compare(args: &Parity, ui: &Ui) -> Result<Outcome, Failure> {
    with_training::compare(args, ui)
}

/// Runs `bench train`.
#[cfg(not(feature = "train"))]
pub fn execute(_: &Train, _: &Ui) -> Result<Outcome, Failure> {
    Err(Failure::without_training("bench train"))
}

/// Runs `bench parity`.
#[cfg(not(feature = "train"))]
pub fn compare(_: &Parity, _: &Ui) -> Result<Outcome, Failure> {
    Err(Failure::without_training("bench parity"))
}

#[cfg(feature = "train")]
mod with_training {
    use pausedata::bench::train::{Error, Options, Report, parity, run, setup};
    use pausedata::model;

    use super::super::super::explain::Explain;
    use super::super::super::failure::Kind;
    use super::super::super::ui::{FAILED, Format, NAME, PASSED, grouped};
    use super::*;

    pub fn execute(args: &Train, ui: &Ui) -> Result<Outcome, Failure> {
        let report = run(&Options {
            recipe: setup::recipe(
                args.recipe.as_deref(),
                args.load.as_deref(),
                &args.overrides,
            )?,
            dataset: args.dataset.clone(),
            load: args.load.clone(),
            dump: args.dump.clone(),
            warm: args.warm,
            ceiling: args.ceiling,
            devices: model::devices(&args.device)?,
            kernels: args.kernels.clone(),
            lora: args.lora.map(usize::from),
        })?;
        match ui.format() {
            Format::Json => ui.print_json(&report)?,
            Format::Text => ui.print(&text(&report))?,
        }
        Ok(Outcome::Done)
    }

    pub fn compare(args: &Parity, ui: &Ui) -> Result<Outcome, Failure> {
        let named = args.recipe.as_deref();
        let recipe = setup::recipe(named, Some(&args.folder), &args.overrides)?;
        let tolerance = parity::Tolerance {
            loss: args.loss,
            gradient: args.gradient,
            curve: args.curve,
        };
        let device = model::device(&args.device)?;
        let report = parity::run(&args.folder, recipe, tolerance, (&device, &args.kernels))?;
        match ui.format() {
            Format::Json => ui.print_json(&report)?,
            Format::Text => ui.print(&verdict(&report))?,
        }
        Ok(match report.equal {
            true => Outcome::Done,
            false => Outcome::Refuted,
        })
    }

    fn text(report: &Report) -> String {
        let mut text = format!(
            "{NAME}model{NAME:#}   {} parameters, {} positions a step, {:.0} of them scored; threads: {}{}\n",
            grouped(report.parameters as u64),
            grouped(report.tokens_per_step),
            report.scored_per_step,
            report.threads,
            match report.ranks {
                1 => String::new(),
                ranks => format!(", ranks: {ranks}"),
            },
        );
        text += &format!(
            "{NAME}step{NAME:#}    {:.2} ms ({:.2} to {:.2}; the first {:.2}): {:.0} positions a second\n",
            report.step_ms_median,
            report.step_ms_min,
            report.step_ms_max,
            report.first_step_ms,
            report.tokens_per_s,
        );
        let rates = &report.rates;
        if let (Some(tokens), Some(six_n), Some(palm)) =
            (report.tokens_per_cpu_s, rates.six_n, rates.palm)
        {
            text += &format!(
                "{NAME}CPU{NAME:#}     {tokens:.0} positions a second of CPU: {six_n:.1} GFLOP/s by 6N, {palm:.1} by 6N + 12LTD\n",
            );
        }
        if let (Some(ceiling), Some(six_n), Some(palm)) =
            (rates.ceiling, rates.mfu_six_n, rates.mfu_palm)
        {
            text += &format!(
                "{NAME}ceiling{NAME:#} {ceiling:.1} GFLOP/s in a large product on one thread: reached {:.1} % by 6N, {:.1} % by 6N + 12LTD\n",
                100.0 * six_n,
                100.0 * palm,
            );
        }
        if let Some(bytes) = report.memory_bytes {
            text += &format!(
                "{NAME}memory{NAME:#}  {:.0} MB at most\n",
                bytes as f64 / 1e6
            );
        }
        let (first, last) = (report.loss_first, report.loss_last);
        text + &format!("{NAME}loss{NAME:#}    {first:.6} to {last:.6}\n")
    }

    fn verdict(report: &parity::Report) -> String {
        let parity::Tolerance {
            loss,
            gradient,
            curve,
        } = report.tolerance;
        let line = |what: &str, found: f64, allowed: f64, where_: &str| {
            let (style, word) = match found <= allowed {
                true => (PASSED, "equal"),
                false => (FAILED, "DIFFERS"),
            };
            format!(
                "{style}{word:7}{style:#}  {what}: {found:.1e}, of {allowed:.0e} allowed{where_}\n"
            )
        };
        let mut text = line(
            "loss of the first step",
            report.loss_difference,
            loss,
            &format!(" (it is {:.6})", report.loss),
        );
        let (name, worst) = &report.gradient;
        text += &line(
            "gradient of the first step",
            *worst,
            gradient,
            &format!(
                " (in {name}; all as one: {:.1e})",
                report.gradient_difference
            ),
        );
        let (worst, step) = report.curve_difference;
        let steps = format!(" (at step {step} of {})", report.steps);
        text += &line("loss of every step", worst, curve, &steps);
        text += &format!(
            "         norms of gradients: {:.1e}\n",
            report.norm_difference
        );
        if let Some(last) = report.final_difference {
            text += &format!("         parameters after the last step: {last:.1e}\n");
        }
        text
    }

    impl Explain for Error {
        fn kind(&self) -> Kind {
            match self {
                Self::NonFinite { .. } | Self::File(_) | Self::Toml(_) => Kind::Failed,
                Self::Dataset(error) => error.kind(),
                Self::Loader(error) => error.kind(),
                Self::Model(error) => error.kind(),
                Self::Kernels(error) => error.kind(),
                _ => Kind::BadInput,
            }
        }

        fn advice(&self) -> Option<String> {
            Some(match self {
                Self::Model(error) => return error.advice(),
                Self::Kernels(error) => return error.advice(),
                Self::From => {
                    "name another recipe, or one with `tokenizer` and a model shape".into()
                }
                Self::Short { .. } => {
                    "give a lower `--warm` or `--set pretrain.train.steps=N`".into()
                }
                Self::Steps { found } => format!("`--set pretrain.train.steps={found}`"),
                Self::Ranks(error) => error.hint().into(),
                Self::Exchange(_) => {
                    "`pausedata bench parity --help` says what a folder holds".into()
                }
                _ => return None,
            })
        }
    }
}
