//! Weights, batches and results as arrays, so that two trainers can do the same run.
//!
//! A folder holds `NAME.npy` files, or an `arrays.safetensors` with all of them:
//! `init.*`, `grad.*` and `final.*` (the parameters before the first step, the gradients
//! of the first step before clipping, the parameters after the last), `batch.S.M.ids` and
//! `batch.S.M.targets` (step S, micro-batch M; -100 where nothing is scored), `losses` and
//! `norms` (one number a step). Parameters have the names and layouts of a PyTorch module:
//! matrices of linear layers are `[outputs, inputs]`.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::batch::{Batch, BatchIds, Counts, LENGTH_STEP, StoredTargets};
use crate::fs;
use crate::loader::GlobalBatch;
use crate::loader::stream::{UNSCORED, targets};
use crate::model::config::Config;
use crate::model::layout::{Group, Part, layout};
use crate::npy::{self, Array, Kind};

/// All arrays in one file.
const PACKED: &str = "arrays.safetensors";

/// Arrays that do not make a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// A file is no array.
    #[error("cannot read array `{name}` of `{}`", folder.display())]
    Array {
        /// The folder.
        folder: PathBuf,
        /// The array.
        name: String,
        /// What is wrong.
        #[source]
        source: npy::Error,
    },
    /// The file of all arrays is none.
    #[error("cannot read `{PACKED}` of `{}`", folder.display())]
    Packed {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        #[source]
        source: SafeTensorError,
    },
    /// An array is absent.
    #[error("`{}` holds no array `{name}`", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The array.
        name: String,
    },
    /// An array has another shape than the model or the batch says.
    #[error("array `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The array.
        name: String,
        /// By the model or the batch.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A batch that the model cannot read.
    #[error("array `{name}`: {problem}")]
    Batch {
        /// The array.
        name: String,
        /// What is wrong, as a sentence.
        problem: String,
    },
}

/// A folder of arrays that is read.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    packed: Option<Vec<u8>>,
}

/// One parameter in both worlds.
struct Named {
    name: String,
    group: usize,
    part: Part,
    transposed: bool,
}

impl Folder {
    /// The arrays of a folder.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let packed = match fs::read(&path.join(PACKED)) {
            Err(error) if error.is_missing() => None,
            other => Some(other?),
        };
        Ok(Self {
            path: path.to_path_buf(),
            packed,
        })
    }

    /// The parameters `WHICH.*` of a model, one flat array a group; none where the folder
    /// has none.
    pub fn parameters(&self, which: &str, config: &Config) -> Result<Option<Vec<Vec<f32>>>, Error> {
        let groups = layout(config);
        let mut values: Vec<Vec<f32>> = groups.iter().map(|group| vec![0.0; group.len]).collect();
        for (index, named) in names(&groups).iter().enumerate() {
            let name = format!("{which}.{}", named.name);
            let found = self.find(&name, |array| {
                let expected = named.shape();
                if array.shape != expected {
                    let (name, found) = (name.clone(), array.shape.clone());
                    return Err(Error::Shape {
                        name,
                        expected,
                        found,
                    });
                }
                if let Some(group) = values.get_mut(named.group) {
                    named.write(&array.singles(), group);
                }
                Ok(())
            })?;
            match found {
                Some(()) => {}
                None if index == 0 => return Ok(None),
                None => return Err(self.missing(name)),
            }
        }
        Ok(Some(values))
    }

    /// The parameters `WHICH.*` of a model, which must be there.
    pub fn required(&self, which: &str, config: &Config) -> Result<Vec<Vec<f32>>, Error> {
        let missing = || self.missing(format!("{which}.wte.weight"));
        self.parameters(which, config)?.ok_or_else(missing)
    }

    /// One number a step.
    pub fn series(&self, name: &str) -> Result<Vec<f64>, Error> {
        let found = self.find(name, |array| Ok(array.values().collect()))?;
        found.ok_or_else(|| self.missing(name.to_owned()))
    }

    /// The global batch of a step; none where the folder has none.
    pub fn batch(&self, step: u64, config: &Config) -> Result<Option<GlobalBatch>, Error> {
        let mut batch = GlobalBatch {
            index: step,
            micro_batches: Vec::new(),
            counts: Counts::default(),
        };
        while let Some(micro) = self.micro_batch(step, batch.micro_batches.len(), config)? {
            batch.counts += micro.counts;
            batch.micro_batches.push(micro);
        }
        Ok((!batch.micro_batches.is_empty()).then_some(batch))
    }

    fn micro_batch(
        &self,
        step: u64,
        micro: usize,
        config: &Config,
    ) -> Result<Option<Batch>, Error> {
        let name = |what: &str| format!("batch.{step}.{micro}.{what}");
        let read = |name: &str| {
            self.find(name, |array| {
                let values = array.values().collect::<Vec<_>>();
                Ok((array.shape, values))
            })
        };
        let Some((shape, ids)) = read(&name("ids"))? else {
            return Ok(None);
        };
        let aims = name("targets");
        let (found, targets) = read(&aims)?.ok_or_else(|| self.missing(aims.clone()))?;
        if found != shape {
            return Err(Error::Shape {
                name: aims,
                expected: shape,
                found,
            });
        }
        let ids = checked(&name("ids"), &ids, config, false)?;
        let targets = checked(&aims, &targets, config, true)?;
        let [rows, length] = shape[..] else {
            return Err(Error::Batch {
                name: name("ids"),
                problem: format!("expected rows and positions, found the shape {shape:?}"),
            });
        };
        if config.context < length || !length.is_multiple_of(LENGTH_STEP) || rows == 0 {
            let context = config.context;
            return Err(Error::Batch {
                name: name("ids"),
                problem: format!(
                    "expected rows of a multiple of {LENGTH_STEP} positions, at most {context}, found {rows} of {length}"
                ),
            });
        }
        Ok(Some(assemble(rows, length, &ids, &targets)))
    }

    /// Shows an array to `see`, where there is one.
    fn find<R>(
        &self,
        name: &str,
        see: impl FnOnce(Array<'_>) -> Result<R, Error>,
    ) -> Result<Option<R>, Error> {
        let array = |source| Error::Array {
            folder: self.path.clone(),
            name: name.to_owned(),
            source,
        };
        let Some(packed) = &self.packed else {
            let bytes = match fs::read(&self.path.join(format!("{name}.npy"))) {
                Err(error) if error.is_missing() => return Ok(None),
                other => other?,
            };
            return see(Array::parse(&bytes).map_err(array)?).map(Some);
        };
        let packed = SafeTensors::deserialize(packed).map_err(|source| Error::Packed {
            folder: self.path.clone(),
            source,
        })?;
        let Ok(tensor) = packed.tensor(name) else {
            return Ok(None);
        };
        let kind = match tensor.dtype() {
            Dtype::F32 => Kind::F32,
            Dtype::F64 => Kind::F64,
            Dtype::U8 => Kind::U8,
            Dtype::I32 => Kind::I32,
            Dtype::I64 => Kind::I64,
            other => {
                let found = other.to_string();
                return Err(array(npy::Error::Kind { found }));
            }
        };
        let found = Array::new(tensor.shape().to_vec(), kind, tensor.data());
        see(found.map_err(array)?).map(Some)
    }

    fn missing(&self, name: String) -> Error {
        let folder = self.path.clone();
        Error::Missing { folder, name }
    }
}

/// Writes parameters as `WHICH.*`, given one flat array a group.
pub fn write_parameters(
    folder: &Path,
    which: &str,
    values: &[Vec<f32>],
    config: &Config,
) -> Result<(), Error> {
    for named in names(&layout(config)) {
        let group = values.get(named.group).map(Vec::as_slice);
        let bytes = npy::floats(&named.shape(), &named.read(group.unwrap_or_default()));
        let path = folder.join(format!("{which}.{}.npy", named.name));
        fs::write(&path, &bytes)?;
    }
    Ok(())
}

/// Writes the micro-batches of a step, whose weights are 0 or 1.
pub fn write_batch(folder: &Path, batch: &GlobalBatch) -> Result<(), Error> {
    for (index, micro) in batch.micro_batches.iter().enumerate() {
        let name = |what: &str| format!("batch.{}.{index}.{what}", batch.index);
        let weights = micro.weights();
        if weights
            .iter()
            .any(|weight| *weight != 0.0 && *weight != 1.0)
        {
            return Err(Error::Batch {
                name: name("targets"),
                problem: "targets have weights, which an exchange cannot hold".into(),
            });
        }
        let shape = [micro.rows, micro.length];
        let arrays = [
            (
                "ids",
                micro
                    .ids
                    .widened()
                    .into_iter()
                    .map(u32::cast_signed)
                    .collect(),
            ),
            ("targets", targets(micro)),
        ];
        for (what, values) in arrays {
            let mut bytes = Vec::new();
            npy::header(Kind::I32, &shape, &mut bytes);
            bytes.extend(values.iter().flat_map(|value: &i32| value.to_le_bytes()));
            fs::write(&folder.join(name(what) + ".npy"), &bytes)?;
        }
    }
    Ok(())
}

/// Every parameter with the group and part that hold it: `wte.weight` first.
fn names(groups: &[Group]) -> Vec<Named> {
    let mut all = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        for part in &group.parts {
            let (layer, kind) = part.name.split_once('.').unwrap_or((&part.name, "weight"));
            let short = match layer {
                "token" => "wte",
                "position" => "wpe",
                "norm" => "lnf",
                "norm1" => "ln1",
                "norm2" => "ln2",
                "out" => "proj",
                other => other,
            };
            let block = group.name.strip_prefix("block.");
            all.push(Named {
                name: match block {
                    Some(block) => format!("blocks.{block}.{short}.{kind}"),
                    None => format!("{short}.{kind}"),
                },
                group: index,
                transposed: block.is_some() && part.shape.len() == 2,
                part: part.clone(),
            });
        }
    }
    all
}

impl Named {
    /// The shape outside.
    fn shape(&self) -> Vec<usize> {
        let mut shape = self.part.shape.clone();
        if self.transposed {
            shape.reverse();
        }
        shape
    }

    /// Where each value of the outside array, in order, lies in our group.
    fn places(&self) -> impl Iterator<Item = usize> {
        let width = self.part.shape.last().copied().unwrap_or(1).max(1);
        let len = self.part.range.len();
        let (start, rows, transposed) = (self.part.range.start, len / width, self.transposed);
        (0..len).map(move |index| match transposed {
            true => start + index % rows * width + index / rows,
            false => start + index,
        })
    }

    fn read(&self, group: &[f32]) -> Vec<f32> {
        let value = |place| group.get(place).copied().unwrap_or_default();
        self.places().map(value).collect()
    }

    fn write(&self, values: &[f32], group: &mut [f32]) {
        for (place, value) in self.places().zip(values) {
            if let Some(to) = group.get_mut(place) {
                *to = *value;
            }
        }
    }
}

/// The distance of every parameter of two models, by the names outside.
pub fn distances(ours: &[Vec<f32>], theirs: &[Vec<f32>], config: &Config) -> Vec<(String, f64)> {
    let distance = |named: Named| {
        let of = |all: &[Vec<f32>]| named.read(all.get(named.group).map_or(&[], Vec::as_slice));
        let (ours, theirs) = (of(ours), of(theirs));
        (named.name, relative(&[ours], &[theirs]))
    };
    names(&layout(config)).into_iter().map(distance).collect()
}

/// `|a - b| / |b|` over all arrays together; infinite where something is not a number, so
/// that it is the worst.
pub fn relative(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    let (mut difference, mut length) = (0.0, 0.0);
    for (a, b) in pairs {
        let (a, b) = (f64::from(*a), f64::from(*b));
        difference += (a - b) * (a - b);
        length += b * b;
    }
    let relative = match difference {
        0.0 => 0.0,
        _ => (difference / length).sqrt(),
    };
    if relative.is_nan() {
        return f64::INFINITY;
    }
    relative
}

/// Ids below the vocabulary's size, or [`UNSCORED`] where that is allowed.
fn checked(name: &str, values: &[f64], config: &Config, unscored: bool) -> Result<Vec<i32>, Error> {
    let allowed = |id: f64| {
        let known = id.fract() == 0.0 && (0.0..config.vocab_size as f64).contains(&id);
        known || unscored && id == f64::from(UNSCORED)
    };
    if let Some(strange) = values.iter().find(|id| !allowed(**id)) {
        let size = config.vocab_size;
        return Err(Error::Batch {
            name: name.to_owned(),
            problem: format!("expected ids below the vocabulary's size {size}, found {strange}"),
        });
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers in range")]
    let ids = values.iter().map(|id| *id as i32);
    Ok(ids.collect())
}

fn assemble(rows: usize, length: usize, ids: &[i32], targets: &[i32]) -> Batch {
    let is_scored = |target: &i32| *target != UNSCORED;
    let scored = targets.iter().filter(|target| is_scored(target)).count() as u64;
    let bits = targets.chunks(8).map(|eight| {
        let bits = eight.iter().enumerate();
        bits.fold(0, |byte, (bit, target)| {
            byte | u8::from(is_scored(target)) << bit
        })
    });
    let id = |id: &i32| id.cast_unsigned();
    Batch {
        rows,
        length,
        ids: BatchIds::U32(ids.iter().map(id).collect()),
        scored: bits.collect(),
        stored: Some(StoredTargets {
            targets: targets.iter().map(|aim| id(aim.max(&0))).collect(),
            weights: targets
                .iter()
                .map(|aim| f32::from(u8::from(is_scored(aim))))
                .collect(),
        }),
        lengths: vec![u32::try_from(length).unwrap_or(u32::MAX); rows],
        prefixes: vec![0; rows],
        end: None,
        counts: Counts {
            real: ids.len() as u64,
            scored,
            ..Counts::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Device, Model, testing};
    use crate::rng::Key;

    #[test]
    fn parameters_come_back_and_matrices_are_transposed() {
        for config in testing::table() {
            let folder = tempfile::tempdir().unwrap();
            let values = Model::new(&config, Key::new(3), &Device::flex()).values();
            write_parameters(folder.path(), "init", &values, &config).unwrap();
            let arrays = Folder::open(folder.path()).unwrap();
            assert!(arrays.required("init", &config).unwrap() == values);
            assert!(arrays.parameters("final", &config).unwrap().is_none());
            let file = fs::read(&folder.path().join("init.blocks.1.up.weight.npy")).unwrap();
            let up = Array::parse(&file).unwrap();
            let groups = layout(&config);
            let part = groups[2].parts.iter().find(|part| part.name == "up.weight");
            let part = part.unwrap().clone();
            assert_eq!(up.shape, [part.shape[1], part.shape[0]]);
            // Row 1 of theirs is column 1 of ours.
            let row = up.singles()[config.d_model..][..config.d_model].to_vec();
            let ours = |i: usize| values[2][part.range.start + i * part.shape[1] + 1];
            assert!(row.iter().enumerate().all(|(i, value)| *value == ours(i)));
        }
    }

    #[test]
    fn batches_come_back() {
        let (config, folder) = (testing::llama(), tempfile::tempdir().unwrap());
        let targets = [3, -100, 5, 6, 7, 8, 9, 10, -100, -100, 1, 2, 3, 4, 5, 36];
        let micro = assemble(2, 8, &[1; 16], &targets);
        let counts = micro.counts;
        assert_eq!((counts.scored, counts.real), (13, 16));
        let batch = GlobalBatch {
            index: 4,
            micro_batches: vec![micro.clone(), micro],
            counts: Counts {
                real: 32,
                scored: 26,
                ..counts
            },
        };
        write_batch(folder.path(), &batch).unwrap();
        let arrays = Folder::open(folder.path()).unwrap();
        assert_eq!(arrays.batch(4, &config).unwrap().unwrap(), batch);
        assert!(arrays.batch(5, &config).unwrap().is_none());

        let small = Config {
            vocab_size: 36,
            ..config.clone()
        };
        let error = arrays.batch(4, &small).unwrap_err().to_string();
        expect_test::expect![
            "array `batch.4.0.targets`: expected ids below the vocabulary's size 36, found 36"
        ]
        .assert_eq(&error);
        let small = Config {
            context: 7,
            ..config
        };
        let error = arrays.batch(4, &small).unwrap_err().to_string();
        expect_test::expect!["array `batch.4.0.ids`: expected rows of a multiple of 8 positions, at most 7, found 2 of 8"].assert_eq(&error);
    }
}
