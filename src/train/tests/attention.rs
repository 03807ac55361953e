//! What positions see in training is kept with the weights, and a run goes on with it.

use super::*;
use crate::model::config::Attention;

#[test]
fn a_run_goes_on_with_its_attention_and_no_other() {
    for attention in [Attention::Document, Attention::PrefixLm] {
        let [data, whole] = folders();
        let of = |folder: &Path, attention| {
            let mut job = job(data.path(), folder);
            job.dataset = dataset(data.path(), Stage::Finetune, &tokenizer("⏸"));
            job.train.bucket = 2;
            job.train.attention = attention;
            job.config.attention = attention;
            job
        };
        finish(&of(whole.path(), attention));
        let expected = traces(whole.path());
        let latest = checkpoint::resolve(whole.path()).unwrap();
        let (config, _) = checkpoint::read_model(&latest).unwrap();
        assert_eq!(config.attention, attention);

        let stopped = tempfile::tempdir().unwrap();
        let job = of(stopped.path(), attention);
        let stop = Stop::default();
        run(&job, &at(7, || stop.request()), &stop).unwrap();
        let causal = of(stopped.path(), Attention::Causal);
        let error = run(&causal, &Silent, &Stop::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("`model.attention` was "), "{error}");
        let mut unsorted = of(stopped.path(), attention);
        unsorted.train.bucket = 0;
        let error = run(&unsorted, &Silent, &Stop::default())
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("`bucket` was 2 and is absent"), "{error}");
        finish(&job);
        assert!(traces(stopped.path()) == expected);

        // Another stage may see otherwise with the same weights.
        let next = tempfile::tempdir().unwrap();
        let mut next = of(next.path(), Attention::Causal);
        next.start = Start::From(whole.path().to_path_buf());
        finish(&next);
        assert!(traces(&next.folder) != expected);
    }
}
