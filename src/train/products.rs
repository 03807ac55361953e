//! `products.json`: the algorithms that a GPU's matrix products of a run are computed with,
//! so that a run which is continued adds in the order in which it began.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::fs;
use crate::model::Model;
use crate::model::ops::{Kernels, cuda};

/// The file in a training folder.
const FILE: &str = "products.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    /// The matrix library's version.
    library: usize,
    /// Of each product, which of the algorithms that are proposed for it.
    products: BTreeMap<String, usize>,
}

/// Lets a GPU take what the run in a folder has taken so far. A file that cannot be read is
/// as good as none: then what is fastest is measured again.
pub fn recall(folder: &Path, model: &Model) {
    let text = fs::read_text(&folder.join(FILE)).ok();
    let taken = text.and_then(|text| serde_json::from_str::<Taken>(&text).ok());
    if let (Some(taken), Some(tensor)) = (taken, of(model)) {
        cuda::know(tensor, (taken.library, taken.products));
    }
}

/// Writes down what was taken; waits for what is queued, but not for the GPU.
pub fn keep(folder: &Path, model: &Model) -> Result<(), Error> {
    let examined = of(model).and_then(|tensor| cuda::examine(tensor, false));
    let Some(Ok(examined)) = examined else {
        return Ok(());
    };
    let products = examined.products.into_iter();
    let taken = Taken {
        library: examined.library,
        products: products.map(|told| (told.product, told.taken)).collect(),
    };
    let text = format!("{:#}\n", serde_json::json!(taken));
    Ok(fs::write(&folder.join(FILE), text.as_bytes())?)
}

/// What lies on the GPU whose products are ours.
fn of(model: &Model) -> Option<&burn::tensor::Tensor<1>> {
    match model.kernels() {
        Kernels::Cuda(_) => model.tensors.first(),
        _ => None,
    }
}
