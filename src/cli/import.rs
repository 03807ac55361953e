//! `pausedata import`: a model of another program becomes a checkpoint.

use std::path::PathBuf;

use super::Outcome;
use super::failure::Failure;
use super::ui::Ui;

/// Take over a model of Hugging Face layout, with rows for the pause and other reserved tokens
///
/// SOURCE holds config.json, tokenizer.json, and model.safetensors or the files that
/// model.safetensors.index.json names: Llama 2 and 3, Mistral, Qwen 2 and 3, and GPT-2, in 16 or 32
/// bits. What would change the model's results and is not understood is an error. The rows of
/// new tokens are the mean of all others. A recipe goes on from the checkpoint by
/// `model = { from = "FOLDER" }`; a relative FOLDER starts at the run's own folder.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata import ~/models/SmolLM2-135M --out runs/smollm
  pausedata import ~/models/gpt2 --out runs/gpt2 --pause '<pause>' --distinct 10")]
pub struct Args {
    /// The folder of the model
    #[arg(value_name = "SOURCE")]
    pub source: PathBuf,
    /// Where the checkpoint goes; must not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The pause token, added where it is missing; <|pause|> where absent
    #[arg(long, value_name = "TOKEN")]
    pub pause: Option<String>,
    /// The token that ends a document; the model's own where absent, or <|end|>
    #[arg(long, value_name = "TOKEN")]
    pub end: Option<String>,
    /// The token that fills short rows; the model's own where absent, or <|pad|>
    #[arg(long, value_name = "TOKEN")]
    pub pad: Option<String>,
    /// Also add so many distinct pause tokens, for `pause.token = { distinct = N }`
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=4096))]
    pub distinct: u32,
    /// Also add the tokens that open and close a run of pauses
    #[arg(long)]
    pub delimiters: bool,
    /// A key of config.json that is not known, and changes no result; may be repeated
    #[arg(long, value_name = "KEY")]
    pub ignore: Vec<String>,
    /// Replace a model that stands at --out
    #[arg(long)]
    pub force: bool,
}

/// Runs the command.
#[cfg(feature = "train")]
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    use pausedata::tokenize::PauseTokens;
    use pausedata::transfer::{self, import::Request};

    let imported = transfer::import(&Request {
        source: args.source.clone(),
        out: args.out.clone(),
        pause: args.pause.clone(),
        end: args.end.clone(),
        pad: args.pad.clone(),
        pause_tokens: PauseTokens {
            distinct: args.distinct,
            delimiters: args.delimiters,
        },
        ignore: args.ignore.clone(),
        force: args.force,
    })?;
    match ui.format() {
        super::ui::Format::Json => ui.print_json(&imported)?,
        super::ui::Format::Text => ui.print(&text(&imported))?,
    }
    Ok(Outcome::Done)
}

#[cfg(feature = "train")]
fn text(imported: &pausedata::transfer::Imported) -> String {
    use super::ui::{NAME, grouped};

    let mut text = format!(
        "{NAME}{}{NAME:#}  {}, {} parameters in {} tensors\n",
        imported.folder.display(),
        imported.architecture,
        grouped(imported.parameters),
        imported.tensors
    );
    let (before, now) = (imported.rows_before as u64, imported.rows as u64);
    text += &format!(
        "  vocabulary {} rows, {} before\n",
        grouped(now),
        grouped(before)
    );
    for (id, token) in &imported.new_tokens {
        text += &format!(
            "  new        {token} is id {}, its row the mean of all others\n",
            id.0
        );
    }
    text += &format!("  end        id {}\n", imported.reserved.end.0);
    if let Some(begin) = imported.begin {
        text += &format!("  begin      id {} stands before every prompt", begin.0);
        if let Some(token) = &imported.begin_token {
            text += &format!(", and before every text with `begin = \"{token}\"`");
        }
        text += "\n";
    }
    text
}

/// Runs the command.
#[cfg(not(feature = "train"))]
pub fn execute(_: &Args, _: &Ui) -> Result<Outcome, Failure> {
    Err(Failure::without_training("import"))
}
