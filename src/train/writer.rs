//! Checkpoints written beside the training.
//!
//! A snapshot holds the tensors as they are; the step after it finds them held and
//! computes into new ones. So training goes on at once, and until the files are on the
//! disk a run has its weights and moments twice, and once more as bytes.

use std::path::PathBuf;
use std::thread::{Builder, JoinHandle};

use super::checkpoint::{self, Keep, State, Store};
use super::optimizer::{self, Optimizer};
use super::record::Log;
use super::step::Learner;
use super::{Error, Job, start};
use crate::fs;
use crate::manifest::TOKENIZER_FILE;
use crate::model::{Model, hub};
use crate::panics::message;

/// Everything of a run that a checkpoint holds.
pub struct Snapshot {
    state: State,
    /// What the run gives.
    result: Model,
    /// What it goes on with, where that is another.
    raw: Option<Model>,
    optimizer: Optimizer,
    tokenizer: PathBuf,
    keep: Keep,
}

impl Snapshot {
    /// Of a learner whose weights are numbers; the checkpoint of the step that is `needed`
    /// stays when it is written.
    pub fn new(
        job: &Job,
        learner: &Learner,
        state: State,
        needed: Option<u64>,
    ) -> Result<Self, Error> {
        if !learner.is_finite() {
            return Err(Error::Weights { step: learner.step });
        }
        Ok(Self {
            state,
            result: learner.result(),
            raw: learner.average.as_ref().map(|_| learner.model.clone()),
            optimizer: learner.optimizer.clone(),
            tokenizer: job.dataset.folder.join(TOKENIZER_FILE),
            keep: Keep {
                newest: job.train.keep,
                needed,
            },
        })
    }

    /// Writes the checkpoint; the lines of the metrics before it are durable first.
    fn write(&self, store: &Store, log: &Log) -> Result<PathBuf, Error> {
        log.sync()?;
        let model = &self.result;
        let (config, weights) = hub::to_hub(&model.values(), &model.config)?;
        let config = format!("{config:#}\n").into_bytes();
        let mut files = vec![
            (checkpoint::CONFIG_FILE, config),
            (checkpoint::WEIGHTS_FILE, weights),
            (TOKENIZER_FILE, fs::read(&self.tokenizer)?),
            (optimizer::FILE, self.optimizer.to_bytes(model)?),
        ];
        if let Some(raw) = &self.raw {
            files.push((checkpoint::RAW_FILE, start::raw_file(raw)?));
        }
        let adapter = start::adapter_files(model)?;
        files.extend(
            adapter
                .iter()
                .map(|(name, bytes)| (name.as_str(), bytes.clone())),
        );
        Ok(store.save(&self.state, &files, self.keep)?)
    }
}

/// A thread that writes one checkpoint at a time.
pub struct Writer {
    store: Store,
    log: Log,
    running: Option<JoinHandle<Result<PathBuf, Error>>>,
    saved: Option<PathBuf>,
}

impl Writer {
    /// One that has written `saved`.
    pub fn new(store: Store, log: Log, saved: Option<PathBuf>) -> Self {
        Self {
            store,
            log,
            running: None,
            saved,
        }
    }

    /// Waits for the snapshot before, and begins to write this one.
    pub fn begin(&mut self, snapshot: Snapshot) -> Result<(), Error> {
        self.wait()?;
        let (store, log) = (self.store.clone(), self.log.clone());
        let thread = Builder::new()
            .name("checkpoint".into())
            .spawn(move || snapshot.write(&store, &log));
        self.running = Some(thread.map_err(Error::Spawn)?);
        Ok(())
    }

    /// Says whether writing failed, as far as is known.
    pub fn look(&mut self) -> Result<(), Error> {
        match self.running.as_ref().is_some_and(JoinHandle::is_finished) {
            true => self.wait().map(drop),
            false => Ok(()),
        }
    }

    /// Another checkpoint is the newest, or none is.
    pub fn back_to(&mut self, saved: Option<PathBuf>) {
        self.saved = saved;
    }

    /// Waits until all that was begun stands on the disk; names the newest checkpoint.
    pub fn wait(&mut self) -> Result<Option<PathBuf>, Error> {
        if let Some(thread) = self.running.take() {
            let written = thread.join().map_err(|panic| Error::Writer {
                message: message(panic.as_ref()).into(),
            })?;
            self.saved = Some(written?);
        }
        Ok(self.saved.clone())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Whoever drops it has another failure to tell of; a checkpoint in the making is
        // made whole, or not there.
        drop(self.wait());
    }
}
