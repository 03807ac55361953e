//! The columns of a Parquet shard: what pyarrow, polars and Hugging Face `datasets` see.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, BooleanArray, Int32Array, ListArray, RecordBatch, UInt32Array};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::manifest::Stage;
use crate::pause::target;
use crate::sequence::Sequence;
use crate::token::Reserved;

/// The label of an id that is not scored, as PyTorch's cross entropy has it.
pub const UNSCORED: i32 = -100;

/// The column that is mapped.
pub const INPUT_IDS: &str = "input_ids";
/// What a model is trained to predict at each place, [`UNSCORED`] where nothing.
pub const LABELS: &str = "labels";
/// Where labels are scored.
pub const LOSS_MASK: &str = "loss_mask";
/// Which of the row's documents each id belongs to.
pub const DOC_IDS: &str = "doc_ids";
/// How many of the first ids are prefix; in finetuning alone.
pub const PREFIX: &str = "prefix";

/// Rows as columns, while they are gathered.
#[derive(Debug)]
pub struct Columns {
    stage: Stage,
    reserved: Reserved,
    ends: Vec<i32>,
    ids: Vec<u32>,
    labels: Vec<i32>,
    doc_ids: Vec<u32>,
    prefixes: Vec<u32>,
}

impl Columns {
    /// No rows yet.
    pub fn new(stage: Stage, reserved: Reserved) -> Self {
        Self {
            stage,
            reserved,
            ends: vec![0],
            ids: Vec::new(),
            labels: Vec::new(),
            doc_ids: Vec::new(),
            prefixes: Vec::new(),
        }
    }

    /// Appends a row; fewer than 2^31 ids may be gathered.
    pub fn push(&mut self, row: &Sequence) {
        self.ids.extend(row.ids.iter().map(|id| id.0));
        self.labels.extend(labels(row, self.reserved));
        self.doc_ids.extend(doc_ids(row, self.reserved));
        self.prefixes.extend(row.prefix);
        self.ends
            .push(i32::try_from(self.ids.len()).unwrap_or(i32::MAX));
    }

    /// How many rows were gathered.
    pub fn rows(&self) -> usize {
        self.ends.len() - 1
    }

    /// The ids that were gathered.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The rows as a batch; gathering starts anew.
    pub fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let Self {
            ends,
            ids,
            labels,
            doc_ids,
            prefixes,
            ..
        } = std::mem::replace(self, Self::new(self.stage, self.reserved));
        let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
        let loss_mask = labels.iter().map(|label| *label != UNSCORED);
        let loss_mask: BooleanArray = loss_mask.map(Some).collect();
        let list = |values: ArrayRef| -> Result<ArrayRef, ArrowError> {
            let element = element(values.data_type().clone());
            Ok(Arc::new(ListArray::try_new(
                element,
                ends.clone(),
                values,
                None,
            )?))
        };
        let mut columns = vec![
            list(Arc::new(UInt32Array::from(ids)))?,
            list(Arc::new(Int32Array::from(labels)))?,
            list(Arc::new(loss_mask))?,
            list(Arc::new(UInt32Array::from(doc_ids)))?,
        ];
        if self.stage == Stage::Finetune {
            columns.push(Arc::new(UInt32Array::from(prefixes)));
        }
        RecordBatch::try_new(schema(self.stage), columns)
    }
}

/// The columns and their types.
pub fn schema(stage: Stage) -> SchemaRef {
    static SCHEMAS: LazyLock<[SchemaRef; 2]> = LazyLock::new(|| {
        let list = |name: &str, of: DataType| Field::new(name, DataType::List(element(of)), false);
        let pretrain = vec![
            list(INPUT_IDS, DataType::UInt32),
            list(LABELS, DataType::Int32),
            list(LOSS_MASK, DataType::Boolean),
            list(DOC_IDS, DataType::UInt32),
        ];
        let prefix = Field::new(PREFIX, DataType::UInt32, false);
        let finetune = [pretrain.clone(), vec![prefix]].concat();
        [pretrain, finetune].map(|fields| Arc::new(Schema::new(fields)))
    });
    let [pretrain, finetune] = &*SCHEMAS;
    match stage {
        Stage::Pretrain => pretrain.clone(),
        Stage::Finetune => finetune.clone(),
    }
}

/// `labels[k]` is the id at `k` where the position before it is trained to predict it:
/// models of Hugging Face `transformers` shift inside, so they train on exactly our loss.
pub fn labels(row: &Sequence, reserved: Reserved) -> impl Iterator<Item = i32> {
    let predicted = target::targets(row, reserved);
    [None]
        .into_iter()
        .chain(predicted)
        .take(row.len())
        .map(|id| {
            id.and_then(|id| i32::try_from(id.0).ok())
                .unwrap_or(UNSCORED)
        })
}

/// `doc_ids[k]` is how many documents of the row end before `k`.
pub fn doc_ids(row: &Sequence, reserved: Reserved) -> impl Iterator<Item = u32> {
    row.ids.iter().scan(0, move |ended, id| {
        let document = *ended;
        *ended += u32::from(*id == reserved.end);
        Some(document)
    })
}

/// Lists of Parquet name their elements so.
fn element(of: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", of, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::drawing::{RESERVED, row, word};
    use crate::token::TokenId;
    use expect_test::{Expect, expect};

    fn check(text: &str, expect: Expect) {
        let row = row(text);
        let drawn: Vec<String> = labels(&row, RESERVED)
            .zip(doc_ids(&row, RESERVED))
            .map(|(label, document)| match u32::try_from(label) {
                Ok(id) => format!("{}/{document}", word(TokenId(id))),
                Err(_) => format!("·/{document}"),
            })
            .collect();
        expect.assert_eq(&drawn.join(" "));
    }

    #[test]
    fn labels_stand_where_their_ids_do() {
        check(
            "the ⏸ cat | ⏸ sat on",
            expect!["·/0 ·/0 cat/0 |/0 ·/1 sat/1 on/1"],
        );
        check("is it > ⏸ ⏸ yes |", expect!["·/0 ·/0 ·/0 ·/0 yes/0 |/0"]);
        check("a", expect!["·/0"]);
        check("", expect![""]);
    }

    /// A model of `transformers` scores `labels[k + 1]` with the prediction at `k`.
    #[test]
    fn labels_shifted_are_targets() {
        for text in ["the ⏸ cat | ⏸ sat ⏸", "is > ⏸ yes |", "> yes |", "a b >"] {
            let row = row(text);
            let shifted: Vec<Option<i32>> = labels(&row, RESERVED)
                .skip(1)
                .chain([UNSCORED])
                .map(|label| (label != UNSCORED).then_some(label))
                .collect();
            let targets: Vec<Option<i32>> = target::targets(&row, RESERVED.pause)
                .map(|id| id.map(|id| i32::try_from(id.0).unwrap()))
                .collect();
            assert_eq!(shifted, targets, "{text}");
        }
    }
}
