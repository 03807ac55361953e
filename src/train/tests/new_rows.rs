//! Where the weights of a run begin.

use std::sync::Mutex;

use super::*;
use crate::model::hub;

/// Keeps what is noted.
#[derive(Default)]
pub struct Notes(pub Mutex<Vec<String>>);

impl Progress for Notes {
    fn start(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn advance(&self, _: u64) {}
    fn remark(&self, _: &str) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn finish(&self) {}
}

/// A model of another program: its tokenizer has no pause, its embedding no row for one.
#[test]
fn a_checkpoint_without_pauses_gets_rows_for_them() {
    let [data, folder] = folders();
    let foreign = tempfile::tempdir().unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(tokenizer("⏸").to_json()).unwrap();
    json["added_tokens"] = json!([]);
    let path = foreign.path().join(TOKENIZER_FILE);
    fs::write(&path, &serde_json::to_vec(&json).unwrap()).unwrap();
    let tokenizer = Tokenizer::from_file(&path, &Tokens::default()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 259);
    let config = Config {
        vocab_size: 256,
        tied: false,
        ..config()
    };
    let values = Model::new(&config, Key::new(1), &Device::flex()).values();
    let (written, weights) = hub::to_hub(&values, &config).unwrap();
    let file = |name: &str| foreign.path().join(name);
    fs::write(
        &file(checkpoint::CONFIG_FILE),
        written.to_string().as_bytes(),
    )
    .unwrap();
    fs::write(&file(checkpoint::WEIGHTS_FILE), &weights).unwrap();

    let mut job = Job {
        dataset: dataset(data.path(), Stage::Finetune, &tokenizer),
        start: Start::From(foreign.path().to_path_buf()),
        config: Config {
            vocab_size: 259,
            ..config
        },
        ..job(data.path(), folder.path())
    };
    (job.train.lr, job.train.steps) = (f64::MIN_POSITIVE, 1);
    let notes = Notes::default();
    run(&job, &notes, &Stop::default()).unwrap();
    let notes = notes.0.into_inner().unwrap();
    let told = "3 new embedding rows (256, 257, 258) begin at the mean of the 256 others";
    assert!(notes.iter().any(|note| note == told), "{notes:?}");
    let last = checkpoint::resolve(folder.path()).unwrap();
    let (_, end) = checkpoint::read_model(&last).unwrap();
    let d = job.config.d_model;
    for (group, start) in [(0, 0), (3, d)] {
        let rows: Vec<&[f32]> = end[group][start..].chunks(d).collect();
        let old: Vec<&[f32]> = values[group][start..].chunks(d).collect();
        assert_eq!((old.len(), rows.len()), (256, 259));
        assert!(rows[..256] == old);
        let mean = old.iter().map(|row| f64::from(row[3])).sum::<f64>() / 256.0;
        assert!(
            rows[256..]
                .iter()
                .all(|row| (f64::from(row[3]) - mean).abs() < 1e-9)
        );
    }

    // Where they begin is part of what a run is.
    job.new_rows = NewRows::Random;
    let error = run(&job, &Silent, &Stop::default()).unwrap_err();
    assert!(error.to_string().contains("new_rows"), "{error}");
}
