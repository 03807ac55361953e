//! `pausedata generate`: pause-inference.

use std::path::PathBuf;

use super::Outcome;
use super::failure::Failure;
use super::ui::Ui;

/// Continue a prompt, with pauses between the prompt and the answer
///
/// The pauses are appended to the prompt, and the outputs at all but the last are
/// ignored: pause-inference as arXiv 2310.02226 defines it. They are the tokens that the
/// model was trained with. One that was trained to give pauses itself may give more; they
/// are no part of its answer, and --json counts them.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pausedata generate runs/quickstart/train/finetune --prompt 'Q: Where does Ada live?\nA:' --pauses 10
  pausedata generate runs/quickstart/train/pretrain --prompt 'Once upon' --temperature 0.8 --top-p 0.95
  pausedata generate runs/quickstart/train/finetune --prompt - < question.txt
  pausedata generate runs/quickstart/train/finetune --prompt 'Q: Where?' --pauses 10 --logits logits.npy")]
pub struct Args {
    /// A train/* folder (its newest checkpoint) or a checkpoint
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The text to continue; \n is a new line, and - reads stdin as it is
    #[arg(long, short, value_name = "TEXT")]
    pub prompt: String,
    /// Pauses appended to the prompt (M_inf)
    #[arg(long, default_value_t = 0, value_name = "M")]
    pub pauses: u32,
    /// Longest answer in tokens
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub max_tokens: usize,
    /// 0 takes the likeliest token; higher is more surprising
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub temperature: f32,
    /// Draw from the K likeliest tokens only
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability only
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Seed of the draws
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub seed: u64,
    /// Also write the logits after each id of the prompt and its pauses: a numpy array of
    /// 32-bit floats, ids by vocabulary
    #[arg(long, value_name = "FILE_NPY")]
    pub logits: Option<PathBuf>,
}

/// Runs the command.
#[cfg(feature = "train")]
pub fn execute(args: &Args, ui: &Ui) -> Result<Outcome, Failure> {
    use pausedata::generate::{Generator, Request};
    use pausedata::rng::{Key, Stream};
    use pausedata::{fs, npy};

    let prompt = prompt(&args.prompt)?;
    let request = Request {
        pauses: args.pauses,
        max_tokens: args.max_tokens,
        sampling: sampling(args),
        key: Key::new(args.seed).stream(Stream::Sampling),
    };
    let generator = Generator::open(&args.model)?;
    if let Some(path) = &args.logits {
        let (ids, logits) = generator.logits(&prompt, args.pauses)?;
        let shape = [ids.len(), logits.len() / ids.len().max(1)];
        fs::write(path, &npy::floats(&shape, &logits))?;
    }
    let answer = generator.answer(&prompt, &request)?;
    match ui.format() {
        super::ui::Format::Json => ui.print_json(&serde_json::json!({
            "prompt": prompt,
            "pauses": args.pauses,
            "read": answer.read,
            "text": answer.text,
            "ids": answer.ids,
            "own_pauses": answer.paused,
            "ended": answer.ended,
        }))?,
        super::ui::Format::Text => ui.print(&format!("{}\n", answer.text))?,
    }
    Ok(Outcome::Done)
}

/// The prompt as typed, with `\n` as a new line, or all of stdin.
#[cfg(feature = "train")]
fn prompt(typed: &str) -> Result<String, Failure> {
    use super::failure::Kind;

    if typed != "-" {
        return Ok(typed.replace("\\n", "\n"));
    }
    std::io::read_to_string(std::io::stdin())
        .map_err(|error| Failure::new(Kind::BadInput, format!("cannot read stdin: {error}")))
}

#[cfg(feature = "train")]
fn sampling(args: &Args) -> pausedata::generate::Sampling {
    use pausedata::generate::Sampling;

    if args.temperature == 0.0 {
        return Sampling::Greedy;
    }
    Sampling::Random {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
    }
}

/// Runs the command.
#[cfg(not(feature = "train"))]
pub fn execute(_: &Args, _: &Ui) -> Result<Outcome, Failure> {
    Err(Failure::without_training("generate"))
}
