//! What a run is trained on: its dataset, or several by weight.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::json;

use super::checkpoint::State;
use super::{Error, Job, ranks};
use crate::dataset::{self, Dataset};
use crate::fingerprint::{Difference, Fingerprint};
use crate::loader::{Config, Loader, Order, Rows, Share, together};
use crate::manifest::Split;
use crate::shard::DocumentRecord;

/// The datasets that rows come from, in the order of `train.mixture`.
pub fn members(job: &Job) -> &[Arc<Dataset>] {
    match job.mixture.as_slice() {
        [] => std::slice::from_ref(&job.dataset),
        several => several,
    }
}

/// The longest row of any dataset.
pub fn row_length(job: &Job) -> usize {
    let lengths = members(job).iter().map(|member| member.manifest.row_length);
    lengths.max().unwrap_or(0)
}

/// How rows become global batches: as many as fit if all are as long as the longest. A recipe
/// that does not say how large micro-batches are leaves that to the number of ranks.
pub fn loading(job: &Job) -> Config {
    let row_length = row_length(job).max(1);
    let rows = |tokens: usize| (tokens / row_length).max(1);
    let rows_per_batch = rows(job.train.batch_tokens);
    Config {
        seed: job.seed,
        rows_per_batch,
        rows_per_micro_batch: match job.train.micro_batch_tokens {
            Some(tokens) => rows(tokens).min(rows_per_batch),
            None => ranks::dealt(rows_per_batch, 1 + job.others.len()),
        },
        split: Split::Train,
        order: Order::Shuffled,
        bucket: job.train.bucket,
        share: Share::WHOLE,
        epochs: None,
    }
}

/// The loader of a run, whose datasets belong together.
pub fn loader(job: &Job) -> Result<Loader, Error> {
    let members = members(job);
    together(members.iter().map(|member| &**member))?;
    let rows = members
        .iter()
        .cloned()
        .map(|member| member as Arc<dyn Rows>);
    let loader = Loader::of_several(rows.collect(), job.train.phases(), loading(job));
    Ok(loader?)
}

/// Checks that no dataset of a mixture trains on a text that the stage holds out.
///
/// A text's split follows from its checksum and the share that is held out, so a dataset
/// that holds out as much cannot; of others, every document is looked at.
pub fn check_held_out(job: &Job) -> Result<(), Error> {
    let (own, share) = (&job.dataset, job.dataset.manifest.validation());
    let others = (job.mixture.iter()).filter(|other| other.manifest.validation() < share);
    let others: Vec<_> = others.collect();
    if others.is_empty() || job.train.validate_every == 0 {
        return Ok(());
    }
    let mut held_out = HashSet::new();
    for shard in own.shards(Split::Validation) {
        let documents = shard.documents().map_err(dataset::Error::from)?;
        held_out.extend(documents.iter().map(|document| document.checksum));
    }
    for other in others {
        for shard in other.shards(Split::Train) {
            let documents = shard.documents().map_err(dataset::Error::from)?;
            let both = |document: &&DocumentRecord| held_out.contains(&document.checksum);
            if let Some(document) = documents.iter().find(both) {
                let file = other.manifest.corpus.get(document.id.file as usize);
                return Err(Error::Leak {
                    dataset: other.folder.clone(),
                    own: own.folder.clone(),
                    file: file.map(|file| file.name.clone()).unwrap_or_default(),
                    document: document.id.row + 1,
                    share,
                });
            }
        }
    }
    Ok(())
}

/// What differs between a checkpoint and the run that would continue it.
pub fn differences(job: &Job, then: &State, now: &Fingerprint, loader: &Loader) -> Vec<Difference> {
    let Some(state) = &then.loader else {
        // Checkpoints of format 1 name their one dataset in the fingerprint.
        let mut now = now.clone();
        now.add("dataset", &json!(job.dataset.digest));
        now.add("tokenizer", &json!(job.dataset.manifest.tokenizer.digest));
        now.add("seed", &json!(job.seed));
        now.add("mixture", &json!(job.train.phases()));
        return then.fingerprint.differences(&now);
    };
    let mut differences = state.differences(&loader.state(state.next));
    differences.extend(then.fingerprint.differences(now));
    differences
}
