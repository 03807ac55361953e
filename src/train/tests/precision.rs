//! Runs whose products are rounded.

use super::*;
use crate::model::precision::Precision;

fn rounded(data: &Path, folder: &Path) -> Job {
    let mut job = job(data, folder);
    job.train.precision = Precision::Bf16;
    job
}

#[test]
fn a_rounded_run_is_resumed_to_the_bit_and_in_its_precision() {
    let [data, whole] = folders();
    finish(&rounded(data.path(), whole.path()));
    let expected = traces(whole.path());
    let stopped = tempfile::tempdir().unwrap();
    let job = rounded(data.path(), stopped.path());
    let stop = Stop::default();
    run(&job, &at(4, || stop.request()), &stop).unwrap();

    let mut single = super::job(data.path(), stopped.path());
    let error = run(&single, &Silent, &Stop::default())
        .unwrap_err()
        .to_string();
    let told = "`train.precision` was bf16 and is absent";
    assert!(error.ends_with(told), "{error}");

    finish(&job);
    assert!(traces(stopped.path()) == expected);
    let exact = tempfile::tempdir().unwrap();
    single.folder = exact.path().to_path_buf();
    finish(&single);
    assert!(
        traces(exact.path()) != expected,
        "it was trained in bfloat16"
    );
}
