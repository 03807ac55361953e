//! Runs whose matrices are moved by Muon.

use super::*;
use crate::recipe::Optimizer as Kind;

#[test]
fn law_8_holds_with_muon() {
    let [data, whole] = folders();
    let mut job = job(data.path(), whole.path());
    job.train.optimizer = Kind::Muon;
    finish(&job);
    let expected = traces(whole.path());
    let folder = tempfile::tempdir().unwrap();
    let stopped = Job {
        folder: folder.path().to_path_buf(),
        ..job
    };
    for step in [2, 7] {
        let stop = Stop::default();
        run(&stopped, &at(step, || stop.request()), &stop).unwrap();
    }
    let killer = at(9, || panic!("killed"));
    catch_unwind(AssertUnwindSafe(|| {
        run(&stopped, &killer, &Stop::default())
    }))
    .unwrap_err();
    let mut other = stopped.train.clone();
    other.optimizer = Kind::Adamw;
    let other = Job {
        train: other,
        ..stopped.clone()
    };
    let error = run(&other, &Silent, &Stop::default()).unwrap_err();
    assert!(error.to_string().contains("`train.optimizer`"), "{error}");
    finish(&stopped);
    assert!(traces(folder.path()) == expected);
}

#[test]
fn muon_learns_what_adamw_does() {
    let [data, folder] = folders();
    let mut job = job(data.path(), folder.path());
    job.train.steps = 60;
    job.train.optimizer = Kind::Muon;
    finish(&job);
    let lines = record::read(folder.path()).unwrap();
    let Some(Line::Validation(last)) = lines.last() else {
        panic!("no validation loss at the end")
    };
    assert!(last.loss < 1.2, "{last:?}");
    // Matrices have no second moment, gains have one.
    let latest = checkpoint::resolve(folder.path()).unwrap();
    let bytes = fs::read(&latest.join(optimizer::FILE)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let shape = crate::model::ops::Shape::new(&job.config);
    for block in 0..job.config.n_layers {
        let second = file.tensor(&format!("block.{block}.second")).unwrap();
        let zero = |range: std::ops::Range<usize>| {
            let bytes = &second.data()[4 * range.start..4 * range.end];
            bytes.iter().all(|byte| *byte == 0)
        };
        assert!(zero(shape.block.qkv.weight.clone()) && zero(shape.block.down.weight.clone()));
        assert!(!zero(shape.block.norm1.weight.clone()));
    }
}
