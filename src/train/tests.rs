//! Whole runs of a small model: law 8 (exact resume), law 9 (sum over count),
//! and what stops a run.

mod attention;
mod events;
mod late;
mod mixture;
mod muon;
mod new_rows;
mod precision;
mod ranks;
mod tuning;
mod watch;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::fs;
use crate::loader;
use crate::manifest::{
    FORMAT, Ledger, Manifest, Split, SplitRecord, TOKENIZER_FILE, TokenizerRecord, Totals as Sums,
};
use crate::model::Model;
use crate::model::collective::Seat;
use crate::model::config::{Activation, Attention, NewRows, Norm, Positions};
use crate::pause::Policy;
use crate::progress::Silent;
use crate::recipe::Freeze;
use crate::rng::Key;
use crate::sequence::Sequence;
use crate::shard::{ShardSpec, ShardWriter};
use crate::token::{IdWidth, TokenId};
use crate::tokenize::{Config as Tokens, Tokenizer, Training};
use crate::train::checkpoint::Checkpoint;

const ROW_LENGTH: usize = 24;

fn tokenizer(pause: &str) -> Tokenizer {
    let training = Training {
        vocab_size: 256,
        sample_bytes: 1000,
    };
    let config = Tokens {
        file: None,
        train: Some(training),
        pause: pause.into(),
        end: "■".into(),
        pad: "□".into(),
        pause_tokens: Default::default(),
        parse_special: false,
    };
    Tokenizer::train(&mut [Ok("abc".to_owned())].into_iter(), &config).unwrap()
}

/// Rows of several lengths: three ids that go round, with a pause now and then.
fn row(stage: Stage, index: u64, pause: TokenId) -> Sequence {
    let mut rng = Key::new(7).item(index).rng();
    let length = 8 + usize::try_from(rng.below(ROW_LENGTH as u64 - 7)).unwrap();
    let id = |position: usize| match rng.below(5) {
        0 => pause,
        _ => TokenId(u32::try_from(position % 3).unwrap() + 60),
    };
    Sequence {
        ids: (0..length).map(id).collect(),
        prefix: (stage == Stage::Finetune).then_some(3),
        ..Sequence::default()
    }
}

/// A sealed dataset of 20 rows to train on and 5 held out.
fn dataset(folder: &Path, stage: Stage, tokenizer: &Tokenizer) -> Arc<Dataset> {
    dataset_of(folder, stage, tokenizer, row)
}

/// The same with other rows.
fn dataset_of(
    folder: &Path,
    stage: Stage,
    tokenizer: &Tokenizer,
    row: impl Fn(Stage, u64, TokenId) -> Sequence,
) -> Arc<Dataset> {
    fs::write(&folder.join(TOKENIZER_FILE), tokenizer.to_json()).unwrap();
    let (vocab_size, reserved) = (tokenizer.vocab_size(), tokenizer.reserved());
    let mut splits = BTreeMap::new();
    for (split, rows) in [(Split::Train, 0..20), (Split::Validation, 20..25)] {
        let spec = ShardSpec {
            format: Default::default(),
            id_width: IdWidth::U16,
            vocab_size,
            reserved,
            row_length: ROW_LENGTH,
            stage,
            tokenizer: tokenizer.digest(),
            unit: 0,
            part: 0,
            fields: Default::default(),
        };
        let mut writer = ShardWriter::create(folder, &format!("{split}-00000-000"), &spec).unwrap();
        for index in rows {
            writer.push(&row(stage, index, reserved.pause)).unwrap();
        }
        let totals = Sums {
            rows: writer.rows(),
            ..Sums::default()
        };
        let shards = vec![writer.finish().unwrap()];
        splits.insert(split, SplitRecord { shards, totals });
    }
    let manifest = Manifest {
        format: FORMAT,
        stage,
        seed: 1,
        recipe: json!({}),
        tokenizer: TokenizerRecord {
            digest: tokenizer.digest(),
            vocab_size,
            reserved,
            begin: None,
        },
        id_width: IdWidth::U16,
        row_length: ROW_LENGTH,
        pause: Policy::None.into(),
        corpus: Vec::new(),
        splits,
        ledger: Ledger::default(),
        contamination: Vec::new(),
        rejects: Vec::new(),
        shard_format: Default::default(),
    };
    manifest.seal(folder).unwrap();
    Arc::new(Dataset::open(folder).unwrap())
}

fn config() -> Config {
    Config {
        vocab_size: 259,
        context: ROW_LENGTH,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        d_model: 16,
        head_dim: None,
        d_ff: 24,
        positions: Positions::Rope,
        rope_theta: 10_000.0,
        rope_scaling: None,
        norm: Norm::RmsNorm,
        norm_eps: 1e-5,
        activation: Activation::SwiGlu,
        bias: false,
        qkv_bias: false,
        tied: true,
        attention: Attention::Causal,
        window: None,
        qk_norm: false,
        logit_soft_cap: None,
    }
}

/// Twelve steps of six rows, four at a time; saved every five.
fn job(data: &Path, folder: &Path) -> Job {
    let text = "
        steps = 12
        batch_tokens = 144
        micro_batch_tokens = 96
        lr = 0.01
        warmup = 3
        clip = 0.5
        checkpoint_every = 5
        keep = 2
        validate_every = 3
    ";
    Job {
        folder: folder.to_path_buf(),
        dataset: dataset(data, Stage::Pretrain, &tokenizer("⏸")),
        mixture: Vec::new(),
        config: config(),
        start: Start::Fresh,
        new_rows: NewRows::Mean,
        train: toml::from_str(text).unwrap(),
        seed: 3,
        device: Device::flex(),
        others: Vec::new(),
        kernels: Wish::Auto,
    }
}

fn folders() -> [TempDir; 2] {
    [(); 2].map(|()| tempfile::tempdir().unwrap())
}

fn finish(job: &Job) {
    let outcome = run(job, &Silent, &Stop::default()).unwrap();
    assert_eq!(outcome, Outcome::Finished);
}

/// What a finished run must reproduce: its metrics without timings, and every
/// file of its last checkpoint.
fn traces(folder: &Path) -> (Vec<String>, Vec<(PathBuf, Vec<u8>)>) {
    let metrics = fs::read_text(&folder.join(record::FILE)).unwrap();
    let untimed = |line: &str| line.split("\"tokens_per_s\"").next().unwrap().to_owned();
    let latest = checkpoint::resolve(folder).unwrap();
    let (folders, files): (Vec<_>, Vec<_>) =
        (fs::list(&latest).unwrap().into_iter()).partition(|path| path.is_dir());
    let within = folders.iter().flat_map(|folder| fs::list(folder).unwrap());
    let files = files.into_iter().chain(within).map(|path| {
        let bytes = fs::read(&path).unwrap();
        (path.strip_prefix(folder).unwrap().to_path_buf(), bytes)
    });
    (metrics.lines().map(untimed).collect(), files.collect())
}

/// Does something once so many steps are done.
struct At<F> {
    step: u64,
    done: AtomicU64,
    act: F,
}

impl<F: Fn() + Send + Sync> Progress for At<F> {
    fn start(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn advance(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::SeqCst) + count;
        if done == self.step {
            (self.act)();
        }
    }
    fn remark(&self, _: &str) {}
    fn note(&self, _: &str) {}
    fn finish(&self) {}
}

fn at<F: Fn() + Send + Sync>(step: u64, act: F) -> At<F> {
    let done = AtomicU64::new(0);
    At { step, done, act }
}

#[test]
fn law_8_a_run_stopped_after_any_step_ends_as_if_it_never_was() {
    let [data, whole] = folders();
    let uninterrupted = job(data.path(), whole.path());
    finish(&uninterrupted);
    let expected = traces(whole.path());
    // 12 steps, and validation losses after 3, 6, 9 and 12.
    assert_eq!(expected.0.len(), 16);
    let stop_after = |steps: &[u64]| {
        let folder = tempfile::tempdir().unwrap();
        let job = Job {
            folder: folder.path().to_path_buf(),
            ..job(data.path(), folder.path())
        };
        for &step in steps {
            let stop = Stop::default();
            let outcome = run(&job, &at(step, || stop.request()), &stop).unwrap();
            assert_eq!(outcome, Outcome::Stopped { step });
        }
        finish(&job);
        assert!(traces(folder.path()) == expected, "stopped after {steps:?}");
    };
    for step in [1, 4, 5, 6, 11] {
        stop_after(&[step]);
    }
    stop_after(&[1, 2, 3, 7, 8, 9, 10, 11]);
}

#[test]
fn law_8_a_run_killed_between_checkpoints_ends_as_if_it_never_was() {
    let [data, whole] = folders();
    finish(&job(data.path(), whole.path()));
    let killed = tempfile::tempdir().unwrap();
    let job = job(data.path(), killed.path());
    for step in [3, 9, 11] {
        let killer = at(step, || panic!("killed"));
        catch_unwind(AssertUnwindSafe(|| run(&job, &killer, &Stop::default()))).unwrap_err();
        assert_eq!(
            record::read(killed.path()).unwrap().last().unwrap().step(),
            step
        );
    }
    finish(&job);
    assert!(traces(killed.path()) == traces(whole.path()));
}

#[test]
fn a_finished_run_is_left_alone_and_learns() {
    let [data, folder] = folders();
    let mut job = job(data.path(), folder.path());
    job.train.steps = 60;
    finish(&job);
    let before = fs::read(&folder.path().join(record::FILE)).unwrap();
    finish(&job);
    assert_eq!(fs::read(&folder.path().join(record::FILE)).unwrap(), before);

    let lines = record::read(folder.path()).unwrap();
    let losses: Vec<f64> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Train(step) => Some(step.loss),
            Line::Validation(_) | Line::Anomaly(_) => None,
        })
        .collect();
    // Untrained it knows nothing of 259 ids; then it knows which three there are.
    assert!((losses[0] - 259f64.ln()).abs() < 0.1, "{losses:?}");
    assert!(losses[59] < 1.2, "{losses:?}");
    let Some(Line::Validation(last)) = lines.last() else {
        panic!("no validation loss at the end")
    };
    assert!(last.rows == 5 && last.loss < 1.2, "{last:?}");
    let kept = fs::list(&folder.path().join("checkpoints")).unwrap();
    let names: Vec<_> = kept.iter().filter_map(|path| path.file_name()).collect();
    assert_eq!(names, ["step-000055", "step-000060"]);
}

#[test]
fn law_9_the_loss_is_the_sum_over_the_count_of_the_global_batch() {
    let data = tempfile::tempdir().unwrap();
    let train = toml::from_str("steps = 1\nbatch_tokens = 192\nlr = 0.1").unwrap();
    for stage in [Stage::Pretrain, Stage::Finetune] {
        let dataset = dataset(data.path(), stage, &tokenizer("⏸"));
        let model = Model::new(&config(), Key::new(1), &Device::flex());
        let batch = |rows_per_micro_batch| {
            let config = loader::Config {
                seed: 1,
                rows_per_batch: 8,
                rows_per_micro_batch,
                split: Split::Train,
                order: loader::Order::Shuffled,
                bucket: 0,
                share: loader::Share::WHOLE,
                epochs: None,
            };
            Loader::new(dataset.clone(), config)
                .unwrap()
                .batch(0)
                .unwrap()
        };
        let flat = |gradients: Vec<burn::tensor::Tensor<1>>| -> Vec<f32> {
            let values = gradients
                .into_iter()
                .map(|g| g.into_data().iter::<f32>().collect());
            values.collect::<Vec<Vec<f32>>>().concat()
        };
        let norm = |values: &[f32]| values.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let seat = Seat::alone(&Device::flex());
        let (loss, gradients) = step::gradients(&model, &batch(8), &train, &seat).unwrap();
        let gradients = flat(gradients);
        for rows in [1, 2, 3, 5] {
            let cut = batch(rows);
            let scored: Vec<u64> = cut.micro_batches.iter().map(|b| b.counts.scored).collect();
            assert!(
                scored.iter().any(|n| *n != scored[0]),
                "equal counts prove nothing"
            );
            let (other_loss, other) = step::gradients(&model, &cut, &train, &seat).unwrap();
            let [loss, other_loss] = [loss, other_loss].map(|loss| loss.cross_entropy);
            assert!((loss - other_loss).abs() < 1e-6, "{loss} {other_loss}");
            let difference: Vec<f32> = flat(other)
                .iter()
                .zip(&gradients)
                .map(|(a, b)| a - b)
                .collect();
            let distance = norm(&difference) / norm(&gradients);
            assert!(distance < 1e-6, "{rows} rows at a time: {distance}");
        }
    }
}

/// Of the rows of two embeddings, the pause's differ and no others do.
fn only_the_pause_moved(job: &Job, start: &[f32], end: &[f32]) {
    let (d, pause) = (
        job.config.d_model,
        job.dataset.manifest.tokenizer.reserved.pause,
    );
    let rows = start.chunks(d).zip(end.chunks(d)).enumerate();
    for (id, (before, after)) in rows {
        assert_eq!(before != after, id == pause.index(), "row {id}");
    }
}

#[test]
fn all_but_the_pauses_can_be_frozen() {
    let [data, folder] = folders();
    let mut job = job(data.path(), folder.path());
    job.train.freeze = Some(Freeze::AllButPause);
    job.train.decay_embeddings = true;
    finish(&job);
    let start = Model::new(&job.config, Key::new(job.seed), &job.device).values();
    let last = checkpoint::resolve(folder.path()).unwrap();
    let (_, end) = checkpoint::read_model(&last).unwrap();
    assert!(
        start[1..] == end[1..],
        "blocks and the last norm are frozen"
    );
    only_the_pause_moved(&job, &start[0], &end[0]);
}

#[test]
fn numbers_that_are_none_stop_the_run_and_leave_what_was_saved() {
    let [data, folder] = folders();
    let mut job = job(data.path(), folder.path());
    job.train.lr = 1e25;
    job.train.checkpoint_every = 1;
    let error = run(&job, &Silent, &Stop::default()).unwrap_err();
    let Error::Anomaly {
        step,
        batch,
        file,
        checkpoint,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*batch, *step - 1);
    let listed: serde_json::Value = serde_json::from_str(&fs::read_text(file).unwrap()).unwrap();
    assert_eq!(listed["rows"].as_array().unwrap().len(), 6, "{listed}");
    let latest = checkpoint::resolve(folder.path()).unwrap();
    assert_eq!(checkpoint.as_ref(), Some(&latest));
    assert!(
        error
            .hint()
            .unwrap()
            .contains(&latest.display().to_string())
    );
    assert_eq!(Checkpoint::open(&latest).unwrap().state.step, *batch);
    let lines = record::read(folder.path()).unwrap();
    assert_eq!(lines.iter().rev().nth(1).unwrap().step(), *batch);
    let Some(Line::Anomaly(last)) = lines.last() else {
        panic!("{lines:?}")
    };
    assert_eq!((last.step, last.batch), (*step, *batch));
    assert_eq!(last.policy, SpikePolicy::Stop);
}

/// A gradient may be a number and its update none: that is no checkpoint.
#[test]
fn weights_that_are_no_numbers_are_not_saved() {
    let [data, folder] = folders();
    let mut job = job(data.path(), folder.path());
    (job.train.lr, job.train.warmup, job.train.checkpoint_every) = (1e39, 0, 1);
    let error = run(&job, &Silent, &Stop::default()).unwrap_err();
    assert_eq!(error.to_string(), "weights are not finite after step 1");
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.latest().unwrap(), None);
}

#[test]
fn each_step_has_the_rate_of_its_schedule() {
    let [data, folder] = folders();
    finish(&job(data.path(), folder.path()));
    let rates = record::read(folder.path()).unwrap().into_iter();
    let rates = rates.filter_map(|line| match line {
        Line::Train(line) => Some(line.lr),
        _ => None,
    });
    // Three steps up to 0.01, and nine down to a tenth of it by a cosine.
    let down = |step: f64| 0.1 + 0.45 * (1.0 + (std::f64::consts::PI * step / 9.0).cos());
    let expected = [1.0 / 3.0, 2.0 / 3.0, 1.0]
        .into_iter()
        .chain((1..10).map(|step| down(f64::from(step))));
    let pairs: Vec<(f64, f64)> = rates.zip(expected).collect();
    assert_eq!(pairs.len(), 12);
    for (rate, expected) in pairs {
        assert!((rate - 0.01 * expected).abs() < 1e-12, "{rate} {expected}");
    }
}

#[test]
fn only_the_same_run_is_continued() {
    let [data, folder] = folders();
    let mut job = job(data.path(), folder.path());
    let stop = Stop::default();
    run(&job, &at(2, || stop.request()), &stop).unwrap();
    job.train.lr = 0.5;
    job.seed = 4;
    let error = run(&job, &Silent, &Stop::default()).unwrap_err();
    let latest = checkpoint::resolve(folder.path()).unwrap();
    let expected = format!(
        "cannot continue `{}`: `seed` was 3 and is 4, `train.lr` was 0.01 and is 0.5",
        latest.display()
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().is_some());
    job.train.lr = 0.01;
    job.seed = 3;
    job.train.keep = 1;
    job.train.checkpoint_every = 100;
    job.train.validate_every = 0;
    finish(&job);
}

#[test]
fn a_stage_starts_from_the_weights_of_another() {
    let [data, first] = folders();
    let before = job(data.path(), first.path());
    finish(&before);
    let [data, second] = folders();
    let mut job = Job {
        dataset: dataset(data.path(), Stage::Finetune, &tokenizer("⏸")),
        start: Start::From(first.path().to_path_buf()),
        ..job(data.path(), second.path())
    };
    job.config.n_layers = 3;
    let error = run(&job, &Silent, &Stop::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("has another shape: `model.n_layers` was 2 and is 3"),
        "{error}"
    );
    job.config.n_layers = 2;
    job.train.lr = 0.0;
    job.train.steps = 1;
    finish(&job);
    let values = |folder: &Path| {
        let latest = checkpoint::resolve(folder).unwrap();
        checkpoint::read_model(&latest).unwrap().1
    };
    assert!(
        values(second.path()) == values(first.path()),
        "a rate of 0 moves nothing"
    );

    let [data, third] = folders();
    let other = Job {
        dataset: dataset(data.path(), Stage::Finetune, &tokenizer("…")),
        folder: third.path().to_path_buf(),
        ..job
    };
    let error = run(&other, &Silent, &Stop::default()).unwrap_err();
    assert!(matches!(error, Error::AnotherTokenizer { .. }), "{error}");
}

#[test]
fn a_model_that_cannot_hold_the_dataset_is_refused() {
    let [data, folder] = folders();
    let mut job = job(data.path(), folder.path());
    job.config.context = ROW_LENGTH - 8;
    let error = run(&job, &Silent, &Stop::default())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the model's context is 16, but the dataset's longest row in a batch is 24"
    );
    job.config.vocab_size = 10;
    let error = run(&job, &Silent, &Stop::default())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the model's vocab_size is 10, but the dataset's vocabulary is 259"
    );
}
