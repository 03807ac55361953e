//! A GPU as an engine: kernels compiled by NVRTC when they are first asked for, products by
//! cuBLASLt, all on a stream that somebody else owns.
//!
//! Lives on one thread, that of the device, on which its context is current.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};

use cudarc::cublaslt::{result as blas, sys as blas_sys};
use cudarc::driver::{result as driver, sys};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use super::engine::{Argument, Engine, Error, Launch, Matrix, Module, Pointer, Precision, Product};

/// Bytes that a product may work in.
const WORKSPACE: usize = 32 << 20;
/// What every matrix's address is a multiple of, in bytes: widths are multiples of eight.
const ALIGNMENT: u32 = 16;
/// Shared memory that a kernel has without being asked for, in bytes.
const SHARED: u32 = 48 << 10;

/// What has been compiled and planned on a device.
pub struct Gpu {
    functions: HashMap<(Module, Precision, &'static str), sys::CUfunction>,
    modules: HashMap<(Module, Precision), sys::CUmodule>,
    plans: HashMap<PlanKey, Plan>,
    blas: blas_sys::cublasLtHandle_t,
    /// Of each stream its own.
    workspaces: HashMap<usize, sys::CUdeviceptr>,
    /// As in `sm_90`.
    architecture: String,
}

/// A GPU at work on a stream.
pub struct Driver<'a> {
    gpu: &'a mut Gpu,
    stream: sys::CUstream,
    precision: Precision,
}

/// What tells one product's plan from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PlanKey {
    extents: [usize; 3],
    strides: [usize; 3],
    transposed: [bool; 2],
    precisions: [Precision; 2],
    onto: bool,
}

/// A product that cuBLASLt has chosen an algorithm for. Kept until the program ends.
struct Plan {
    product: blas_sys::cublasLtMatmulDesc_t,
    left: blas_sys::cublasLtMatrixLayout_t,
    right: blas_sys::cublasLtMatrixLayout_t,
    out: blas_sys::cublasLtMatrixLayout_t,
    algorithm: blas_sys::cublasLtMatmulAlgo_t,
}

fn refused(action: impl Into<String>) -> impl FnOnce(&dyn std::fmt::Debug) -> Error {
    let action = action.into();
    move |reason| Error::Device {
        action,
        reason: format!("{reason:?}"),
    }
}

impl Gpu {
    /// The device whose context is current on this thread.
    pub fn current() -> Result<Self, Error> {
        let mut device = 0;
        let attribute = |device, attribute| {
            // SAFETY: the device is the current context's.
            unsafe { driver::device::get_attribute(device, attribute) }
                .map_err(|e| refused("asking the GPU for its architecture")(&e))
        };
        // SAFETY: writes one device's number.
        unsafe { sys::cuCtxGetDevice(&raw mut device).result() }
            .map_err(|e| refused("asking for the current GPU")(&e))?;
        use sys::CUdevice_attribute_enum as Attribute;
        let major = attribute(
            device,
            Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        )?;
        let minor = attribute(
            device,
            Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )?;
        let blas = blas::create_handle().map_err(|e| refused("starting cuBLASLt")(&e))?;
        Ok(Self {
            functions: HashMap::new(),
            modules: HashMap::new(),
            plans: HashMap::new(),
            blas,
            workspaces: HashMap::new(),
            architecture: format!("sm_{major}{minor}"),
        })
    }

    /// The engine that works on a stream of this device.
    pub fn on(&mut self, stream: sys::CUstream, precision: Precision) -> Driver<'_> {
        Driver {
            gpu: self,
            stream,
            precision,
        }
    }

    fn function(
        &mut self,
        module: Module,
        precision: Precision,
        kernel: &'static str,
    ) -> Result<sys::CUfunction, Error> {
        if let Some(function) = self.functions.get(&(module, precision, kernel)) {
            return Ok(*function);
        }
        let loaded = match self.modules.get(&(module, precision)) {
            Some(loaded) => *loaded,
            None => {
                let image = compile(module, precision, &self.architecture)?;
                // SAFETY: the image is what the compiler made for this device.
                let loaded = unsafe { driver::module::load_data(image.as_ptr().cast()) }
                    .map_err(|e| refused(format!("loading `{}`", module.program().0))(&e))?;
                self.modules.insert((module, precision), loaded);
                loaded
            }
        };
        let name = CString::new(kernel).unwrap_or_default();
        // SAFETY: the module stays loaded until the program ends.
        let function = unsafe { driver::module::get_function(loaded, name) }
            .map_err(|e| refused(format!("finding the kernel `{kernel}`"))(&e))?;
        self.functions.insert((module, precision, kernel), function);
        Ok(function)
    }

    fn workspace(&mut self, stream: sys::CUstream) -> Result<sys::CUdeviceptr, Error> {
        if let Some(workspace) = self.workspaces.get(&(stream as usize)) {
            return Ok(*workspace);
        }
        // SAFETY: memory of the current context, kept until the program ends.
        let workspace = unsafe { driver::malloc_sync(WORKSPACE) }
            .map_err(|e| refused("32 MiB for matrix products")(&e))?;
        self.workspaces.insert(stream as usize, workspace);
        Ok(workspace)
    }
}

impl Engine for Driver<'_> {
    fn precision(&self) -> Precision {
        self.precision
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), Error> {
        let function = self
            .gpu
            .function(launch.module, self.precision, launch.kernel)?;
        let action = || format!("running the kernel `{}`", launch.kernel);
        if SHARED < launch.shared {
            use sys::CUfunction_attribute_enum as Attribute;
            let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(launch.shared).unwrap_or(i32::MAX);
            // SAFETY: the function is of a module that stays loaded.
            unsafe { driver::function::set_function_attribute(function, most, bytes) }
                .map_err(|e| refused(action())(&e))?;
        }
        let mut values: Vec<u64> = launch.arguments.iter().map(bits).collect();
        let mut arguments: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        let [x, y, z] = launch.blocks;
        // SAFETY: `kernels.rs` gives each kernel the arguments that it declares, and arrays
        // as long as it says; values live until the call returns, which copies them.
        unsafe {
            driver::launch_kernel(
                function,
                (x, y, z),
                (launch.threads, 1, 1),
                launch.shared,
                self.stream,
                &mut arguments,
            )
        }
        .map_err(|e| refused(action())(&e))
    }

    fn multiply(&mut self, product: &Product) -> Result<(), Error> {
        let key = PlanKey::new(product);
        if !self.gpu.plans.contains_key(&key) {
            let plan =
                Plan::new(self.gpu.blas, product).map_err(|e| refused(named(product))(&e))?;
            self.gpu.plans.insert(key, plan);
        }
        let workspace = self.gpu.workspace(self.stream)?;
        let Some(plan) = self.gpu.plans.get(&key) else {
            return Ok(());
        };
        let (one, old) = (1.0f32, if product.onto { 1.0f32 } else { 0.0 });
        let array = |matrix: &Matrix| matrix.pointer.0 as *const c_void;
        // SAFETY: plan and workspace live until the program ends, and the arrays are those
        // that the caller's operation holds on this stream.
        unsafe {
            blas::matmul(
                self.gpu.blas,
                plan.product,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&old).cast(),
                array(&product.b),
                plan.left,
                array(&product.a),
                plan.right,
                array(&product.out),
                plan.out,
                product.out.pointer.0 as *mut c_void,
                plan.out,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                self.stream.cast(),
            )
        }
        .map_err(|e| refused(named(product))(&e))
    }
}

/// As a kernel reads it from the address it is given: the lowest bytes first.
fn bits(argument: &Argument) -> u64 {
    match argument {
        Argument::Array(Pointer(address)) => *address,
        Argument::Int(value) => u64::from(value.cast_unsigned()),
        Argument::Float(value) => u64::from(value.to_bits()),
    }
}

fn named(product: &Product) -> String {
    let Product { m, n, k, .. } = product;
    format!("a product of [{m}, {k}] and [{k}, {n}]")
}

/// The machine code of a file of kernels.
fn compile(module: Module, precision: Precision, architecture: &str) -> Result<Vec<u8>, Error> {
    let (name, text) = module.program();
    let action = || format!("compiling `{name}` for {architecture}");
    let text = CString::new(text).map_err(|e| refused(action())(&e))?;
    let file = CString::new(name).unwrap_or_default();
    let program = nvrtc::create_program(&text, Some(&file)).map_err(|e| refused(action())(&e))?;
    let mut options = module.definitions(precision);
    options.push(format!("--gpu-architecture={architecture}"));
    // SAFETY: the program was made above, its text outlives it, and it is destroyed once.
    unsafe {
        let compiled = nvrtc::compile_program(program, &options);
        let image = match compiled {
            Ok(()) => machine_code(program).map_err(|e| refused(action())(&e)),
            Err(error) => Err(Error::Device {
                action: action(),
                reason: log(program).unwrap_or_else(|| format!("{error:?}")),
            }),
        };
        nvrtc::destroy_program(program).map_err(|e| refused(action())(&e))?;
        image
    }
}

/// # Safety
/// The program is compiled and not destroyed.
unsafe fn machine_code(program: nvrtc_sys::nvrtcProgram) -> Result<Vec<u8>, nvrtc::NvrtcError> {
    let mut size = 0;
    // SAFETY: the array is as long as the compiler asks for.
    unsafe {
        nvrtc_sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut image = vec![0u8; size];
        nvrtc_sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result()?;
        Ok(image)
    }
}

/// What the compiler said.
///
/// # Safety
/// The program is not destroyed.
unsafe fn log(program: nvrtc_sys::nvrtcProgram) -> Option<String> {
    // SAFETY: as the caller promises; the log ends with a 0.
    let bytes = unsafe { nvrtc::get_program_log(program) }.ok()?;
    let bytes: Vec<u8> = bytes.iter().map(|byte| byte.cast_unsigned()).collect();
    let text = CStr::from_bytes_until_nul(&bytes).ok()?;
    Some(text.to_string_lossy().trim().to_owned())
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

impl Plan {
    /// cuBLASLt's matrices are column-major, and a row-major matrix is the column-major one
    /// of its transpose: what is computed is `out^T = b^T a^T`.
    fn new(
        handle: blas_sys::cublasLtHandle_t,
        product: &Product,
    ) -> Result<Self, blas::CublasError> {
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
        let out = layout(out, m, n)?;
        let preference = preference()?;
        // SAFETY: all were made above, and the preference is destroyed once.
        let found = unsafe {
            let found = blas::get_matmul_algo_heuristic(
                handle,
                description,
                left,
                right,
                out,
                out,
                preference,
            );
            blas::destroy_matmul_pref(preference)?;
            found?
        };
        Ok(Self {
            product: description,
            left,
            right,
            out,
            algorithm: found.algo,
        })
    }
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

fn preference() -> Result<blas_sys::cublasLtMatmulPreference_t, blas::CublasError> {
    use blas_sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
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
