//! What is written down about a step that must not be taken: a line of the metrics, and
//! `anomalies/batch-000123.json`, which names the rows so that they can be looked at.

use std::path::PathBuf;

use serde_json::json;

use super::watch::Anomaly;
use super::{Error, Job, data, record};
use crate::fs;
use crate::loader::Loader;
use crate::recipe::SpikePolicy;

/// The folder in a training folder.
const FOLDER: &str = "anomalies";

/// What is known of a step on a batch that must not be taken.
pub fn record(
    loader: &Loader,
    (step, batch): (u64, u64),
    anomaly: &Anomaly,
    policy: SpikePolicy,
) -> record::Anomaly {
    let rows = loader.rows_of(batch).into_iter();
    record::Anomaly {
        step,
        batch,
        quantity: anomaly.quantity().into(),
        value: anomaly.value(),
        limit: anomaly.limit(),
        policy,
        back_to: None,
        rows: rows
            .map(|pick| record::Row {
                member: pick.member,
                epoch: pick.epoch,
                row: pick.index,
            })
            .collect(),
    }
}

/// Writes the file about it. A run that comes to the same batch again writes the same.
pub fn write(job: &Job, record: &record::Anomaly) -> Result<PathBuf, Error> {
    let members = data::members(job);
    let rows = record.rows.iter().filter_map(|row| {
        let dataset = members.get(row.member)?.folder.display().to_string();
        let inspect = format!(
            "pausedata inspect {dataset} --epoch {} --from {} --rows 1",
            row.epoch, row.row
        );
        Some(json!({ "dataset": dataset, "epoch": row.epoch, "row": row.row, "inspect": inspect }))
    });
    let rows: Vec<_> = rows.collect();
    let text = json!({
        "step": record.step,
        "batch": record.batch,
        "quantity": record.quantity,
        "value": record.value,
        "limit": record.limit,
        "policy": record.policy,
        "rows": rows,
    });
    let name = format!("batch-{:06}.json", record.batch);
    let path = job.folder.join(FOLDER).join(name);
    fs::write(&path, format!("{text:#}\n").as_bytes())?;
    Ok(path)
}
