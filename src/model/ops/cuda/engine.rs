//! What a device must do for the operations: run a kernel, multiply matrices.

use crate::model::config::Config;
pub use crate::model::precision::Precision;

/// Something that a device could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An extent that kernels cannot count.
    #[error("{what} is {found}, and at most {most} can be had on a GPU")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many were asked for.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// The device, its driver or a library said no.
    #[error("{action}: {reason}")]
    Device {
        /// What was tried.
        action: String,
        /// What came back.
        reason: String,
    },
}

/// An address in the memory of the device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer(pub u64);

impl Pointer {
    /// What a kernel takes where an array is not given.
    pub const NONE: Self = Self(0);

    /// So many bytes further.
    pub fn at(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// A file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Module {
    /// Each element by itself.
    Pointwise,
    /// A row a block, and sums over rows.
    Rows,
    /// For heads of so many dimensions.
    Attention(usize),
}

impl Module {
    fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::Pointwise => ("pointwise.cu", include_str!("kernels/pointwise.cu")),
            Self::Rows => ("rows.cu", include_str!("kernels/rows.cu")),
            Self::Attention(_) => ("attention.cu", include_str!("kernels/attention.cu")),
        }
    }

    /// The file's name, and its text with that of the header it includes.
    pub fn program(self) -> (&'static str, String) {
        let (name, text) = self.source();
        let include = "#include \"common.cuh\"";
        let header = include_str!("kernels/common.cuh");
        (name, text.replacen(include, header, 1))
    }

    /// The definitions that the file is compiled with.
    pub fn definitions(self, precision: Precision) -> Vec<String> {
        let head = match self {
            Self::Attention(head) => Some(format!("-DHEAD={head}")),
            _ => None,
        };
        let bf16 = (precision == Precision::Bf16).then(|| "-DBF16".to_string());
        head.into_iter().chain(bf16).collect()
    }
}

/// What a kernel is given, by value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// An array.
    Array(Pointer),
    /// A count or a switch.
    Int(i32),
    /// A factor.
    Float(f32),
}

/// One run of a kernel.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// Where the kernel is.
    pub module: Module,
    /// Its name there.
    pub kernel: &'static str,
    /// How many blocks, by axis.
    pub blocks: [u32; 3],
    /// Threads a block.
    pub threads: u32,
    /// Bytes of shared memory beside those that the kernel declares.
    pub shared: u32,
    /// In the kernel's order.
    pub arguments: &'a [Argument],
}

/// A row-major matrix, seen as it is or transposed.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Its first element.
    pub pointer: Pointer,
    /// Elements from a row to the next.
    pub stride: usize,
    /// What its elements are.
    pub precision: Precision,
    /// Whether the product sees its transpose.
    pub transposed: bool,
}

impl Matrix {
    /// A matrix whose rows lie one behind the other.
    pub fn new(pointer: Pointer, columns: usize, precision: Precision) -> Self {
        Self {
            pointer,
            stride: columns,
            precision,
            transposed: false,
        }
    }

    /// Without its first columns; of one that is not transposed.
    pub fn from_column(self, column: usize) -> Self {
        let pointer = self.pointer.at(column * self.precision.bytes());
        Self { pointer, ..self }
    }

    /// Without its first rows; of one that is not transposed.
    pub fn from_row(self, row: usize) -> Self {
        self.from_column(row * self.stride)
    }

    /// Its transpose.
    pub fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }
}

/// `out = a b`, `[m, k]` times `[k, n]`; or that added to `out`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows of `out`.
    pub m: usize,
    /// Columns of `out`.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// The left matrix.
    pub a: Matrix,
    /// The right matrix.
    pub b: Matrix,
    /// The result, not transposed.
    pub out: Matrix,
    /// Whether to add to what `out` holds.
    pub onto: bool,
}

/// A device, or what stands in for one. Work is done in the order it is given.
pub trait Engine {
    /// What activations are stored in.
    fn precision(&self) -> Precision;
    /// Runs a kernel.
    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), Error>;
    /// Multiplies two matrices.
    fn multiply(&mut self, product: &Product) -> Result<(), Error>;
    /// Copies from the host, whose bytes are free when this returns.
    fn upload(&mut self, bytes: &[u8], to: Pointer) -> Result<(), Error>;
}

/// Whether kernels take a model of this shape, or why not.
pub fn supports(config: &Config) -> Result<(), String> {
    let head = config.head();
    if !head.is_multiple_of(16) || 128 < head {
        return Err(format!(
            "its heads have {head} dimensions: expected a multiple of 16, at most 128"
        ));
    }
    // Rows of both widths begin where wide loads and matrix products may.
    for (what, width) in [("d_model", config.d_model), ("d_ff", config.d_ff)] {
        if !width.is_multiple_of(8) {
            return Err(format!("{what} is {width}: expected a multiple of 8"));
        }
    }
    if config.qk_norm {
        return Err("it normalises queries and keys (`model.qk_norm`)".into());
    }
    if MOST < config.d_model {
        return Err(format!(
            "d_model is {}: expected at most {MOST}",
            config.d_model
        ));
    }
    Ok(())
}

/// The widest row that a block of threads sums in shared memory.
const MOST: usize = 12_288;
