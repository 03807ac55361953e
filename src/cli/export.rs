//! `pausedata export`: a checkpoint becomes a model that `transformers` loads.

use std::path::PathBuf;

use clap::ValueEnum;

use super::Outcome;
use super::failure::Failure;
use super::ui::Ui;

/// Write a model as `transformers` loads it: weights, configuration and tokenizer
///
/// `AutoModelForCausalLM.from_pretrained(DIR)` gives the logits of `pausedata generate`, and
/// `AutoTokenizer.from_pretrained(DIR)` its ids. Pauses are appended by whoever generates: the
/// ids of the pause token after those of the prompt.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata export runs/quickstart/train/finetune --out ada
  pausedata export runs/quickstart/train/finetune --out ada --dtype bf16 --force")]
pub struct Args {
    /// A train/* folder (its newest checkpoint) or a checkpoint
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Where the folder goes; must not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How weights are written; f32 is exact
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub dtype: Dtype,
    /// Replace a model that stands at --out
    #[arg(long)]
    pub force: bool,
}

/// How weights are written, as it is typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Dtype {
    /// 32 bits, as they are
    F32,
    /// The upper half of those
    Bf16,
    /// 16 bits of IEEE 754; a value that they do not hold is an error
    F16,
}

/// Runs the command.
#[cfg(feature = "train")]
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    use pausedata::model::hub::tensors::Precision;
    use pausedata::transfer::{self, export::Request};

    let exported = transfer::export(&Request {
        model: args.model.clone(),
        out: args.out.clone(),
        precision: match args.dtype {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 => Precision::Bf16,
            Dtype::F16 => Precision::F16,
        },
        force: args.force,
    })?;
    match ui.format() {
        super::ui::Format::Json => ui.print_json(&exported)?,
        super::ui::Format::Text => ui.print(&text(&exported))?,
    }
    Ok(Outcome::Done)
}

#[cfg(feature = "train")]
fn text(exported: &pausedata::transfer::Exported) -> String {
    use super::ui::{NAME, grouped};

    let mut text = format!(
        "{NAME}{}{NAME:#}  {}, {} parameters in {} tensors of {}\n  from       {}\n  pause      id {}\n",
        exported.folder.display(),
        exported.architecture,
        grouped(exported.parameters),
        exported.tensors,
        exported.dtype,
        exported.checkpoint.display(),
        exported.reserved.pause.0
    );
    for note in &exported.notes {
        text += &format!("  note       {note}\n");
    }
    text
}

/// Runs the command.
#[cfg(not(feature = "train"))]
pub fn execute(_: &Args, _: &Ui) -> Result<Outcome, Failure> {
    Err(Failure::without_training("export"))
}
