//! Products by cuBLASLt: of the algorithms that it proposes for a product, the fastest is
//! taken, which is measured when the product is first asked for.
//!
//! Another algorithm adds in another order. So that a run which is continued computes as it
//! did, what was taken can be asked for and given back ([`Products::know`]).

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;

use cudarc::cublaslt::{result as blas, sys as blas_sys};
use cudarc::driver::{result as driver, sys};
use serde::Serialize;

use super::engine::{Matrix, Precision, Product};

/// Bytes that a product may work in.
pub const WORKSPACE: usize = 32 << 20;
/// What every matrix's address is a multiple of, in bytes: widths are multiples of eight.
const ALIGNMENT: u32 = 16;
/// Algorithms that are tried, at most.
const TRIED: usize = 8;
/// Runs of each, after one that is not timed.
const RUNS: u32 = 3;
/// Bytes of a copy that is timed.
const COPIED: usize = 256 << 20;

/// What tells one product's plan from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PlanKey {
    extents: [usize; 3],
    strides: [usize; 3],
    transposed: [bool; 2],
    precisions: [Precision; 2],
    onto: bool,
}

/// A product that an algorithm was taken for. Kept until the program ends.
struct Plan {
    product: blas_sys::cublasLtMatmulDesc_t,
    left: blas_sys::cublasLtMatrixLayout_t,
    right: blas_sys::cublasLtMatrixLayout_t,
    out: blas_sys::cublasLtMatrixLayout_t,
    algorithm: blas_sys::cublasLtMatmulAlgo_t,
    told: Told,
}

/// What was taken for a product.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// Its extents, strides, transposes, precisions.
    pub product: String,
    /// Which of those that were proposed, from 0.
    pub taken: usize,
    /// How many those are.
    pub proposed: usize,
    /// Microseconds, where it was measured.
    pub us: Option<f64>,
    /// Those of the first that was proposed.
    pub first_us: Option<f64>,
    /// Operations a second, in billions.
    pub gflops: Option<f64>,
}

/// Where a product runs.
pub struct On {
    /// [`WORKSPACE`] bytes.
    pub workspace: sys::CUdeviceptr,
    /// The stream.
    pub stream: sys::CUstream,
}

/// What cuBLASLt or the driver said.
#[derive(Debug)]
pub enum Refusal {
    /// The library.
    Blas(blas::CublasError),
    /// The driver.
    Driver(driver::DriverError),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blas(error) => write!(f, "{error:?}"),
            Self::Driver(error) => write!(f, "{error:?}"),
        }
    }
}

impl From<blas::CublasError> for Refusal {
    fn from(error: blas::CublasError) -> Self {
        Self::Blas(error)
    }
}

impl From<driver::DriverError> for Refusal {
    fn from(error: driver::DriverError) -> Self {
        Self::Driver(error)
    }
}

/// The products of a device.
pub struct Products {
    handle: blas_sys::cublasLtHandle_t,
    plans: HashMap<PlanKey, Plan>,
    known: BTreeMap<String, usize>,
}

impl Products {
    /// None so far.
    pub fn new(handle: blas_sys::cublasLtHandle_t) -> Self {
        Self {
            handle,
            plans: HashMap::new(),
            known: BTreeMap::new(),
        }
    }

    /// Takes for products that are not planned yet what was taken for them elsewhere.
    pub fn know(&mut self, known: BTreeMap<String, usize>) {
        self.known.extend(known);
    }

    /// What was taken and how fast it is, in the order of names.
    pub fn told(&self) -> Vec<Told> {
        let mut told: Vec<Told> = self.plans.values().map(|plan| plan.told.clone()).collect();
        told.sort_by(|a, b| a.product.cmp(&b.product));
        told
    }

    /// The library's version.
    pub fn version() -> usize {
        // SAFETY: the library is loaded, as a handle of it was made.
        unsafe { blas_sys::cublasLtGetVersion() }
    }

    /// Multiplies two matrices.
    pub fn run(&mut self, product: &Product, on: &On) -> Result<(), Refusal> {
        let key = PlanKey::new(product);
        if let Some(plan) = self.plans.get(&key) {
            return Ok(plan.run(self.handle, product, on)?);
        }
        let plan = self.plan(&key, product, on)?;
        let plan = self.plans.entry(key).or_insert(plan);
        Ok(plan.run(self.handle, product, on)?)
    }

    fn plan(&self, key: &PlanKey, product: &Product, on: &On) -> Result<Plan, Refusal> {
        let (mut plan, proposed) = Plan::new(self.handle, product, key.to_string())?;
        let known = self.known.get(&plan.told.product).copied();
        if let Some((taken, algorithm)) =
            known.and_then(|taken| Some((taken, *proposed.get(taken)?)))
        {
            (plan.told.taken, plan.algorithm) = (taken, algorithm);
            return Ok(plan);
        }
        plan.take_fastest(self.handle, product, on, &proposed)?;
        Ok(plan)
    }
}

impl PlanKey {
    fn new(product: &Product) -> Self {
        let Product {
            m,
            n,
            k,
            a,
            b,
            out,
            onto,
        } = *product;
        Self {
            extents: [m, n, k],
            strides: [a.stride, b.stride, out.stride],
            transposed: [a.transposed, b.transposed],
            precisions: [a.precision, out.precision],
            onto,
        }
    }
}

impl std::fmt::Display for PlanKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([m, n, k], [a, b, out]) = (self.extents, self.strides);
        let [left, right] = self.transposed.map(|on| if on { "t" } else { "" });
        let [from, to] = self.precisions.map(|precision| match precision {
            Precision::Single => "f32",
            Precision::Bf16 => "bf16",
        });
        let onto = if self.onto { " onto" } else { "" };
        write!(
            f,
            "{m}x{k}{left} {k}x{n}{right} {from} to {to}{onto}, {a} {b} {out}"
        )
    }
}

impl Plan {
    /// The plan with the first algorithm that is proposed, and all that are.
    ///
    /// cuBLASLt's matrices are column-major, and a row-major matrix is the column-major one
    /// of its transpose: what is computed is `out^T = b^T a^T`.
    fn new(
        handle: blas_sys::cublasLtHandle_t,
        product: &Product,
        name: String,
    ) -> Result<(Self, Vec<blas_sys::cublasLtMatmulAlgo_t>), blas::CublasError> {
        use blas_sys::cublasLtMatmulDescAttributes_t as Attribute;
        let Product {
            m, n, k, a, b, out, ..
        } = *product;
        let description = blas::create_matmul_desc(
            blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            blas_sys::cudaDataType::CUDA_R_32F,
        )?;
        let set = |attribute, transposed: bool| {
            // CUBLAS_OP_N and CUBLAS_OP_T.
            let operation = i32::from(transposed);
            // SAFETY: the description was made above; the attribute is a number of four bytes.
            unsafe {
                blas::set_matmul_desc_attribute(
                    description,
                    attribute,
                    std::ptr::from_ref(&operation).cast(),
                    size_of_val(&operation),
                )
            }
        };
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, b.transposed)?;
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, a.transposed)?;
        let (left, right) = (layout(b, k, n)?, layout(a, m, k)?);
        let to = out.precision;
        let out = layout(out, m, n)?;
        let proposed = proposed(handle, description, [left, right, out], to)?;
        let Some(first) = proposed.first() else {
            use blas_sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED;
            return Err(blas::CublasError(CUBLAS_STATUS_NOT_SUPPORTED));
        };
        let plan = Self {
            product: description,
            left,
            right,
            out,
            algorithm: *first,
            told: Told {
                product: name,
                taken: 0,
                proposed: proposed.len(),
                us: None,
                first_us: None,
                gflops: None,
            },
        };
        Ok((plan, proposed))
    }

    /// Measures what is proposed, on the product's own matrices but into an array of its own,
    /// and takes the fastest.
    fn take_fastest(
        &mut self,
        handle: blas_sys::cublasLtHandle_t,
        product: &Product,
        on: &On,
        proposed: &[blas_sys::cublasLtMatmulAlgo_t],
    ) -> Result<(), Refusal> {
        let bytes = product.m * product.out.stride * product.out.precision.bytes();
        // Where the memory is full, the first that is proposed will do.
        let Ok(scratch) = Scratch::new(bytes) else {
            return Ok(());
        };
        let mut into = *product;
        into.out.pointer.0 = scratch.0;
        for (index, algorithm) in proposed.iter().enumerate() {
            let tried = Self {
                algorithm: *algorithm,
                told: self.told.clone(),
                ..*self
            };
            let run = || Ok(tried.run(handle, &into, on)?);
            // One that the library proposes and then refuses is left out.
            let Ok(us) = timed(on.stream, run) else {
                continue;
            };
            if index == 0 {
                self.told.first_us = Some(us);
            }
            if self.told.us.is_none_or(|best| us < best) {
                (self.told.taken, self.algorithm) = (index, *algorithm);
                self.told.us = Some(us);
            }
        }
        let Product { m, n, k, .. } = *product;
        let operations = 2.0 * m as f64 * n as f64 * k as f64;
        self.told.gflops = self.told.us.map(|us| operations / us / 1e3);
        Ok(())
    }

    fn run(
        &self,
        handle: blas_sys::cublasLtHandle_t,
        product: &Product,
        on: &On,
    ) -> Result<(), blas::CublasError> {
        let (one, old) = (1.0f32, if product.onto { 1.0f32 } else { 0.0 });
        let array = |matrix: &Matrix| matrix.pointer.0 as *const c_void;
        // SAFETY: plan and workspace live until the program ends, and the arrays are those
        // that the caller's operation holds on this stream.
        unsafe {
            blas::matmul(
                handle,
                self.product,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&old).cast(),
                array(&product.b),
                self.left,
                array(&product.a),
                self.right,
                array(&product.out),
                self.out,
                product.out.pointer.0 as *mut c_void,
                self.out,
                &raw const self.algorithm,
                on.workspace as *mut c_void,
                WORKSPACE,
                on.stream.cast(),
            )
        }
    }
}

/// Memory of the device that is freed again.
struct Scratch(sys::CUdeviceptr);

impl Scratch {
    fn new(bytes: usize) -> Result<Self, driver::DriverError> {
        // SAFETY: memory of the current context.
        unsafe { driver::malloc_sync(bytes.max(1)) }.map(Self)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: allocated above, and all that used it was waited for. Memory that cannot be
        // freed is lost, which the next allocation tells.
        let _lost = unsafe { driver::free_sync(self.0) };
    }
}

/// Microseconds of the shortest of some runs, after one that is not timed.
fn timed(stream: sys::CUstream, run: impl Fn() -> Result<(), Refusal>) -> Result<f64, Refusal> {
    let [start, end] = [Event::new()?, Event::new()?];
    run()?;
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        // SAFETY: both events were made above, and the stream is the caller's.
        unsafe {
            driver::event::record(start.0, stream)?;
            run()?;
            driver::event::record(end.0, stream)?;
            driver::event::synchronize(end.0)?;
            best = best.min(f64::from(driver::event::elapsed(start.0, end.0)?) * 1e3);
        }
    }
    Ok(best)
}

/// A point in time on a stream.
struct Event(sys::CUevent);

impl Event {
    fn new() -> Result<Self, driver::DriverError> {
        driver::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Self)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made above and not used again; the driver keeps what a stream still needs of
        // it. One that cannot be destroyed is lost.
        let _lost = unsafe { driver::event::destroy(self.0) };
    }
}

/// Bytes that a copy within the device moves in a second, read and written.
pub fn copy_rate(stream: sys::CUstream) -> Result<f64, Refusal> {
    let (from, to) = (Scratch::new(COPIED)?, Scratch::new(COPIED)?);
    // SAFETY: both arrays are as long as what is copied.
    let copy =
        || unsafe { driver::memcpy_dtod_async(to.0, from.0, COPIED, stream) }.map_err(Into::into);
    let us = timed(stream, copy)?;
    Ok(2.0 * COPIED as f64 / us * 1e6)
}

/// The algorithms that the library proposes, the one it likes best first.
fn proposed(
    handle: blas_sys::cublasLtHandle_t,
    description: blas_sys::cublasLtMatmulDesc_t,
    [left, right, out]: [blas_sys::cublasLtMatrixLayout_t; 3],
    to: Precision,
) -> Result<Vec<blas_sys::cublasLtMatmulAlgo_t>, blas::CublasError> {
    let preference = preference(to)?;
    let mut count = 0;
    let mut found = Vec::<blas_sys::cublasLtMatmulHeuristicResult_t>::with_capacity(TRIED);
    // SAFETY: all were made by the caller, the array has room for so many, the library fills
    // the first `count`, and the preference is destroyed once.
    unsafe {
        let asked = blas_sys::cublasLtMatmulAlgoGetHeuristic(
            handle,
            description,
            left,
            right,
            out,
            out,
            preference,
            i32::try_from(TRIED).unwrap_or_default(),
            found.as_mut_ptr(),
            &raw mut count,
        );
        blas::destroy_matmul_pref(preference)?;
        asked.result()?;
        found.set_len(usize::try_from(count).unwrap_or(0).min(TRIED));
    }
    let usable = found.iter().filter(|found| found.state.result().is_ok());
    Ok(usable.map(|found| found.algo).collect())
}

/// The layout of what is `[rows, columns]` as the product sees it.
fn layout(
    matrix: Matrix,
    rows: usize,
    columns: usize,
) -> Result<blas_sys::cublasLtMatrixLayout_t, blas::CublasError> {
    let (rows, columns) = match matrix.transposed {
        true => (columns, rows),
        false => (rows, columns),
    };
    let kind = match matrix.precision {
        Precision::Single => blas_sys::cudaDataType::CUDA_R_32F,
        Precision::Bf16 => blas_sys::cudaDataType::CUDA_R_16BF,
    };
    let stride = i64::try_from(matrix.stride).unwrap_or(i64::MAX);
    blas::create_matrix_layout(kind, columns as u64, rows as u64, stride)
}

fn preference(to: Precision) -> Result<blas_sys::cublasLtMatmulPreference_t, blas::CublasError> {
    use blas_sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    use blas_sys::cublasLtReductionScheme_t as Scheme;
    let preference = blas::create_matmul_pref()?;
    let set = |attribute, value: *const c_void, bytes| {
        // SAFETY: the preference was made above, and the value is as long as it says.
        unsafe { blas::set_matmul_pref_attribute(preference, attribute, value, bytes) }
    };
    let workspace = std::ptr::from_ref(&WORKSPACE).cast();
    set(
        Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
        workspace,
        size_of::<usize>(),
    )?;
    // Parts of a sum are added in single precision, whatever its result is rounded to.
    let reduction = match to {
        Precision::Single => Scheme::CUBLASLT_REDUCTION_SCHEME_MASK,
        Precision::Bf16 => Scheme::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE,
    } as u32;
    set(
        Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        std::ptr::from_ref(&reduction).cast(),
        size_of::<u32>(),
    )?;
    for attribute in [
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ] {
        set(
            attribute,
            std::ptr::from_ref(&ALIGNMENT).cast(),
            size_of::<u32>(),
        )?;
    }
    Ok(preference)
}
