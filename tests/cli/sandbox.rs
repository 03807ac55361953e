//! A folder to play in, and the program as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pausedata::fs;

/// A temporary folder with the recipe of a small experiment in it.
pub struct Sandbox {
    folder: tempfile::TempDir,
}

/// What the program said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its data.
    pub out: String,
    /// Everything else.
    pub err: String,
}

/// Small enough for a second, large enough for several shards, units and both splits.
pub const RECIPE: &str = r#"
seed = 7
[tokenizer]
train = { vocab_size = 400 }
[model]
preset = "micro"
[pretrain]
sources = [{ path = "text/*.jsonl" }]
pause = { policy = "random", fraction = 0.1 }
pack = { seq_len = 64, shard_tokens = 4096 }
validation = 0.1
train = { steps = 12, batch_tokens = 256, micro_batch_tokens = 128, lr = 1e-3, warmup = 2, checkpoint_every = 4, validate_every = 6, validation_rows = 8 }
[finetune]
sources = [{ path = "questions.jsonl", prefix = "Q: {question}\nA:", target = " {answer}" }]
pause = { policy = "suffix", count = 5 }
pack = { seq_len = 64 }
train = { steps = 6, batch_tokens = 256, lr = 5e-4, checkpoint_every = 3 }
[eval]
tasks = [{ name = "sums", sources = [{ path = "questions.jsonl", prefix = "Q: {question}\nA:", target = " {answer}" }], limit = 6, max_tokens = 4 }]
pauses = [0, 5, 10]
sample = "The river"
"#;

impl Said {
    /// What a command says.
    pub fn by(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Sandbox {
    /// A folder with `recipe.toml`, five files of text and one of questions.
    pub fn new() -> Self {
        let sandbox = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        sandbox.write("recipe.toml", RECIPE);
        for file in 0..5 {
            let lines: Vec<String> = (0..40).map(|line| story(file * 40 + line)).collect();
            sandbox.write(format!("text/{file}.jsonl"), lines.concat());
        }
        let question = |i: u32| {
            format!(
                "{{\"question\": \"{i} plus {}?\", \"answer\": {}}}\n",
                i % 7,
                i + i % 7
            )
        };
        sandbox.write("questions.jsonl", (0..60).map(question).collect::<String>());
        sandbox
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "files are changed in place, as other programs and bad disks do"
    )]
    pub fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_text(&self.path(name)).unwrap()
    }

    /// Runs the program in the folder, on one thread unless told otherwise.
    pub fn run(&self, arguments: &str) -> Said {
        Said::by(&mut self.command(arguments))
    }

    /// As [`Sandbox::run`], and the program must succeed.
    pub fn ok(&self, arguments: &str) -> Said {
        let said = self.run(arguments);
        assert_eq!(
            said.code,
            Some(0),
            "`pausedata {arguments}` failed:\n{}\n{}",
            said.out,
            said.err
        );
        said
    }

    /// Starts the program and leaves it running.
    pub fn spawn(&self, arguments: &str) -> Child {
        self.command(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Starts the program, whose data is read while it runs.
    pub fn piped(&self, arguments: &str) -> Child {
        let mut command = self.command(arguments);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pausedata"));
        command
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path())
            .env("NO_COLOR", "1")
            .env("RAYON_NUM_THREADS", "1")
            .env("XDG_CACHE_HOME", self.path("cache"))
            .stdin(Stdio::null());
        command
    }

    /// The digest that names a dataset: BLAKE3 of its manifest's bytes.
    pub fn digest(&self, dataset: &str) -> String {
        let said = self.ok(&format!("stats {dataset} --json"));
        let stats: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        stats["dataset"].as_str().unwrap().to_string()
    }
}

/// Every file below a folder, sorted.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The folder of real data, or `None` after saying that the test is skipped.
#[expect(
    clippy::print_stdout,
    reason = "who reads the tests' output learns what was skipped"
)]
pub fn real_data(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("PAUSEDATA_SHARED_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped {test}: PAUSEDATA_SHARED_DATA is not set");
    }
    folder
}

fn story(i: usize) -> String {
    let animals = ["heron", "otter", "badger", "fox", "hare", "owl", "toad"];
    let places = ["river", "hill", "old mill", "orchard", "bridge"];
    let animal = animals[i % animals.len()];
    let place = places[i / 3 % places.len()];
    let mut text = String::new();
    for day in 0..(i % 5 + 1) {
        text += &format!(
            "On day {day} the {animal} went to the {place} and counted {} stones. ",
            i * 7 % 31
        );
    }
    format!("{{\"text\": \"{text}It was “enough” – said nobody.\\n\"}}\n")
}
