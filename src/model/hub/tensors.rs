//! The tensors of safetensors files: found in one file or several, and written one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use serde::Deserialize;

use super::Error;
use crate::fs;
use crate::fs::mapped::Mapped;

/// The weights, where one file has them.
pub const FILE: &str = "model.safetensors";

/// The file that says which of several files has which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// A tensor as a file has it.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Of its values.
    pub dtype: Dtype,
    /// Its axes, row-major.
    pub shape: &'a [usize],
    /// Its values.
    pub bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// Its values, widened.
    pub fn floats(self, name: &str) -> Result<Box<dyn Iterator<Item = f32> + 'a>, Error> {
        let pairs = || (self.bytes.as_chunks::<2>().0.iter()).copied();
        match self.dtype {
            Dtype::F32 => {
                let words = self.bytes.as_chunks::<4>().0.iter().copied();
                Ok(Box::new(words.map(f32::from_le_bytes)))
            }
            Dtype::BF16 => Ok(Box::new(pairs().map(|x| bf16::from_le_bytes(x).to_f32()))),
            Dtype::F16 => Ok(Box::new(pairs().map(|x| f16::from_le_bytes(x).to_f32()))),
            found => Err(Error::Type {
                name: name.to_owned(),
                found: format!("{found:?}"),
            }),
        }
    }
}

/// The files of a folder that hold a model's tensors, mapped.
pub struct Weights {
    files: Vec<File>,
    /// The file and the place in it of each tensor.
    places: BTreeMap<String, (usize, TensorInfo)>,
}

struct File {
    path: PathBuf,
    map: Mapped,
    /// Where the tensors begin.
    start: usize,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens `model.safetensors`, or the files that `model.safetensors.index.json` names.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let index = folder.join(INDEX_FILE);
        let single = folder.join(FILE);
        if single.is_file() || !index.is_file() {
            return Self::of_files(&[single]);
        }
        let json = fs::read_text(&index)?;
        let Index { weight_map } =
            serde_json::from_str(&json).map_err(|source| Error::Index { source })?;
        let names: BTreeSet<&String> = weight_map.values().collect();
        if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
            return Err(Error::Shard {
                file: (*name).clone(),
            });
        }
        let paths: Vec<PathBuf> = names.into_iter().map(|name| folder.join(name)).collect();
        let weights = Self::of_files(&paths)?;
        // Each tensor is where the index says, and nowhere else.
        for (name, file) in &weight_map {
            let found = weights.places.get(name);
            let found = found.and_then(|(at, _)| weights.files.get(*at)?.path.file_name());
            if found.is_none_or(|found| found.to_string_lossy() != **file) {
                return Err(Error::NotInShard {
                    name: name.clone(),
                    file: file.clone(),
                });
            }
        }
        let unlisted = weights.names().find(|name| !weight_map.contains_key(*name));
        if let Some(name) = unlisted.map(String::from) {
            return Err(Error::Unexpected { name });
        }
        Ok(weights)
    }

    /// Opens some files as one.
    pub fn of_files(paths: &[PathBuf]) -> Result<Self, Error> {
        let (mut files, mut places) = (Vec::new(), BTreeMap::new());
        for path in paths {
            let malformed = |source| Error::File {
                path: path.clone(),
                source,
            };
            let file = fs::open(path)?;
            let map = Mapped::new(&file).map_err(fs::Error::new("read", path))?;
            let (length, metadata) = SafeTensors::read_metadata(map.bytes()).map_err(malformed)?;
            for (name, info) in metadata.tensors() {
                if places.contains_key(&name) {
                    return Err(Error::Twice { name });
                }
                places.insert(name, (files.len(), info.clone()));
            }
            files.push(File {
                path: path.clone(),
                map,
                // The length of the header stands before it.
                start: 8 + length,
            });
        }
        Ok(Self { files, places })
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// A tensor by its name.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        let (file, info) = self.places.get(name)?;
        let file = self.files.get(*file)?;
        let (from, to) = info.data_offsets;
        Some(Tensor {
            dtype: info.dtype,
            shape: &info.shape,
            bytes: file.map.bytes().get(file.start + from..file.start + to)?,
        })
    }

    /// Checks that all that was read until now was in the files.
    pub fn check_whole(&self) -> Result<(), Error> {
        match self.files.iter().find(|file| !file.map.is_whole()) {
            Some(file) => Err(Error::Lost {
                path: file.path.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// A tensor that is to be written; its values are made when their turn comes.
pub struct Draft<'a> {
    /// Its name.
    pub name: String,
    /// Its axes, row-major.
    pub shape: Vec<usize>,
    /// Makes its values.
    pub values: Box<dyn Fn() -> Values<'a> + 'a>,
}

/// Values on their way into a file.
pub type Values<'a> = Box<dyn Iterator<Item = f32> + 'a>;

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits, as they are.
    F32,
    /// The upper half of those, rounded to the nearest.
    Bf16,
    /// 16 bits of IEEE 754, rounded to the nearest.
    F16,
}

impl Precision {
    /// As `torch_dtype` of `config.json` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    /// The bytes of values, or the first value that does not fit.
    fn bytes(self, values: Values<'_>, length: usize) -> Result<Vec<u8>, f32> {
        let mut bytes = Vec::with_capacity(length);
        match self {
            Self::F32 => narrow(values, &mut bytes, f32::to_le_bytes, |x| x.is_finite()),
            Self::Bf16 => narrow(
                values,
                &mut bytes,
                |x| bf16::from_f32(x).to_le_bytes(),
                |x| bf16::from_f32(x).is_finite(),
            ),
            Self::F16 => narrow(
                values,
                &mut bytes,
                |x| f16::from_f32(x).to_le_bytes(),
                |x| f16::from_f32(x).is_finite(),
            ),
        }?;
        Ok(bytes)
    }
}

fn narrow<const N: usize>(
    values: Values<'_>,
    bytes: &mut Vec<u8>,
    to: impl Fn(f32) -> [u8; N],
    fits: impl Fn(f32) -> bool,
) -> Result<(), f32> {
    for value in values {
        if !fits(value) {
            return Err(value);
        }
        bytes.extend_from_slice(&to(value));
    }
    Ok(())
}

/// Gives the bytes of a safetensors file to `sink`, in order; one tensor at a time is in
/// memory. The order of tensors is that of the library: by name.
pub fn assemble<E: From<Error>>(
    mut tensors: Vec<Draft<'_>>,
    precision: Precision,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut at, mut infos) = (0, Vec::with_capacity(tensors.len()));
    for tensor in &tensors {
        let bits = tensor.shape.iter().product::<usize>() * precision.dtype().bitsize();
        let info = TensorInfo {
            dtype: precision.dtype(),
            shape: tensor.shape.clone(),
            data_offsets: (at, at + bits / 8),
        };
        at += bits / 8;
        infos.push((tensor.name.clone(), info));
    }
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(about), infos).map_err(Error::from)?;
    let mut header = serde_json::to_vec(&header).map_err(|source| Error::Json { source })?;
    // The values begin where 64-bit numbers may.
    header.resize(header.len().next_multiple_of(8), b' ');
    sink(&(header.len() as u64).to_le_bytes())?;
    sink(&header)?;
    for tensor in tensors {
        let length = tensor.shape.iter().product::<usize>() * precision.dtype().bitsize() / 8;
        let bytes = precision.bytes((tensor.values)(), length);
        let bytes = bytes.map_err(|value| Error::Value {
            name: tensor.name.clone(),
            value,
            precision: precision.name(),
        })?;
        sink(&bytes)?;
    }
    Ok(())
}
