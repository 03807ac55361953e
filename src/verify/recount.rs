//! Documents counted again: how often each was taken, and what was cut.

use std::collections::BTreeMap;

use super::Report;
use super::held::{Held, Packing};
use crate::corpus::weight::{Mixture, Weight};
use crate::manifest::{Manifest, Share, Split};

/// What the documents of the shards come to.
pub struct Recount {
    packing: Packing,
    /// The source of each file.
    sources: Vec<usize>,
    mixture: Mixture,
    unit: u32,
    shares: BTreeMap<usize, Share>,
    cuts: BTreeMap<Split, Cut>,
    /// Whether all ids that were dropped are known.
    trims_known: bool,
}

#[derive(Clone, Copy, Default)]
struct Cut {
    documents: u64,
    trimmed: u64,
}

impl Recount {
    /// Nothing is counted yet.
    pub fn new(manifest: &Manifest, packing: &Packing) -> Self {
        Self {
            packing: packing.clone(),
            sources: manifest.corpus.iter().map(|file| file.source).collect(),
            mixture: Mixture::new(&packing.sources),
            unit: 0,
            shares: BTreeMap::new(),
            cuts: BTreeMap::new(),
            trims_known: true,
        }
    }

    /// Counts a document, in the order of the sources, and says if it was taken as
    /// often as its source's weight asks.
    pub fn count(&mut self, held: &Held) -> Result<(), String> {
        if held.unit != self.unit {
            self.unit = held.unit;
            self.mixture = Mixture::new(&self.packing.sources);
        }
        let file = held.record.id.file as usize;
        let source = self.sources.get(file).copied().unwrap_or(0);
        let found = held.copies.len() as u64;
        let expected = match self.passes_over(source) {
            true => 1,
            false => self.mixture.take(source),
        };
        if found != expected {
            return Err(format!(
                "it stands there {found} times, expected {expected}"
            ));
        }
        let share = self.shares.entry(source).or_default();
        share.documents += found;
        share.ids += held
            .copies
            .iter()
            .map(|ids| ids.len() as u64 + u64::from(held.whole))
            .sum::<u64>();
        let cut = self.cuts.entry(held.split).or_default();
        if 1 < held.pieces || !held.whole {
            cut.documents += found;
        }
        Ok(())
    }

    /// Notes ids that were dropped.
    pub fn trim(&mut self, split: Split, ids: u64) {
        self.cuts.entry(split).or_default().trimmed += ids;
    }

    /// Notes that ids were dropped, nobody knows how many.
    pub fn trim_unread(&mut self) {
        self.trims_known = false;
    }

    /// Compares with the manifest.
    pub fn check(&self, manifest: &Manifest, report: &mut Report) {
        if self.packing.method.notes_every_piece() {
            for (split, record) in &manifest.splits {
                let cut = self.cuts.get(split).copied().unwrap_or_default();
                let totals = &record.totals;
                let trims_right = !self.trims_known || totals.trimmed == cut.trimmed;
                let result = match totals.cut == cut.documents && trims_right {
                    true => Ok(format!("{} documents", cut.documents)),
                    false => Err(format!(
                        "the manifest says {} documents and {} ids trimmed, the rows hold {} and {}",
                        totals.cut, totals.trimmed, cut.documents, cut.trimmed
                    )),
                };
                let name = format!("the documents of {split} that were cut are counted");
                report.check(&name, Some("manifest.json"), result);
            }
        }
        if self.mixture.is_weighted() {
            let name = "the mixture is the manifest's";
            report.check(name, Some("manifest.json"), self.compare_shares(manifest));
        }
    }

    fn compare_shares(&self, manifest: &Manifest) -> Result<String, String> {
        let trimmed: u64 = manifest
            .splits
            .values()
            .map(|split| split.totals.trimmed)
            .sum();
        for source in 0..self.packing.sources.len() {
            let share = |shares: &BTreeMap<usize, Share>| shares.get(&source).copied();
            let counted = share(&self.shares).unwrap_or_default();
            let mut sealed = share(&manifest.ledger.sources).unwrap_or_default();
            if 0 < trimmed {
                sealed.ids = counted.ids; // Which source they are missing from is not known.
            }
            if sealed != counted {
                return Err(format!(
                    "source {source}: the manifest says {} documents of {} ids, the rows hold {} of {}",
                    sealed.documents, sealed.ids, counted.documents, counted.ids
                ));
            }
        }
        Ok(format!("{} sources", self.packing.sources.len()))
    }

    /// Whether a source's weight leaves documents out, so that those left say
    /// nothing about how many came before them.
    fn passes_over(&self, source: usize) -> bool {
        let source = self.packing.sources.get(source);
        let weight = source
            .and_then(|source| source.weight)
            .and_then(Weight::new);
        weight.is_some_and(|weight| weight < Weight::ONE)
    }
}
