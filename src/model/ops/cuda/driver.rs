//! A GPU as an engine: kernels compiled by NVRTC when they are first asked for, products by
//! cuBLASLt, all on a stream that somebody else owns.
//!
//! Lives on one thread, that of the device, on which its context is current.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};

use cudarc::cublaslt::result as blas;
use cudarc::driver::{result as driver, sys};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use serde::Serialize;

use super::engine::{Argument, Engine, Error, Launch, Module, Pointer, Precision, Product};
use super::products::{self, On, Products, WORKSPACE};

/// What a buffer of the host holds at least, in bytes.
const STAGED: usize = 1 << 20;
/// Shared memory that a kernel has without being asked for, in bytes: 48 KiB, of which what
/// it declares itself takes a part.
const SHARED: u32 = 40 << 10;

/// What has been compiled and planned on a device.
pub struct Gpu {
    functions: HashMap<(Module, Precision, &'static str), sys::CUfunction>,
    modules: HashMap<(Module, Precision), sys::CUmodule>,
    /// Products that were planned.
    pub products: Products,
    /// What it was asked for so far.
    pub asked: Asked,
    /// Of each stream its own.
    workspaces: HashMap<usize, sys::CUdeviceptr>,
    /// Buffers of the host that the device copies from, in turn; the last is the next.
    staging: [Staging; 2],
    /// As in `sm_90`.
    architecture: String,
}

/// Page-locked memory of the host, and when the device has copied what lies in it.
struct Staging {
    memory: *mut c_void,
    bytes: usize,
    copied: sys::CUevent,
}

impl Staging {
    fn new() -> Result<Self, driver::DriverError> {
        Ok(Self {
            memory: std::ptr::null_mut(),
            bytes: 0,
            copied: event()?,
        })
    }

    /// Copies to the device by way of the buffer, once the device has left it.
    fn upload(
        &mut self,
        bytes: &[u8],
        to: Pointer,
        stream: sys::CUstream,
    ) -> Result<(), driver::DriverError> {
        // SAFETY: the event lives as long as the program; one that was never recorded is past.
        unsafe { driver::event::synchronize(self.copied)? };
        if self.bytes < bytes.len() {
            let size = bytes.len().next_power_of_two().max(STAGED);
            // SAFETY: nothing copies from the old memory any more, and it is not used again.
            unsafe {
                if !self.memory.is_null() {
                    driver::free_host(self.memory)?;
                    (self.memory, self.bytes) = (std::ptr::null_mut(), 0);
                }
                self.memory = driver::malloc_host(size, 0)?;
            }
            self.bytes = size;
        }
        // SAFETY: the buffer has room for the bytes, and nobody else knows it; the device's
        // array is as long as the caller says, and the event tells when it was filled.
        unsafe {
            let memory = self.memory.cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len());
            let staged = std::slice::from_raw_parts(memory.cast_const(), bytes.len());
            driver::memcpy_htod_async(to.0, staged, stream)?;
            driver::event::record(self.copied, stream)
        }
    }
}

/// An event that takes no time.
fn event() -> Result<sys::CUevent, driver::DriverError> {
    driver::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
}

/// How often a GPU was asked for something of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Runs of kernels.
    pub kernels: u64,
    /// Products of matrices.
    pub products: u64,
    /// Copies from the host.
    pub copies: u64,
}

/// A GPU at work on a stream.
pub struct Driver<'a> {
    gpu: &'a mut Gpu,
    stream: sys::CUstream,
    precision: Precision,
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
        let staging = || Staging::new().map_err(|e| refused("making an event of the GPU")(&e));
        let blas = blas::create_handle().map_err(|e| refused("starting cuBLASLt")(&e))?;
        Ok(Self {
            functions: HashMap::new(),
            modules: HashMap::new(),
            products: Products::new(blas),
            asked: Asked::default(),
            workspaces: HashMap::new(),
            staging: [staging()?, staging()?],
            architecture: format!("sm_{major}{minor}"),
        })
    }

    /// Bytes of the device's memory that are taken, and all of them.
    pub fn memory() -> Result<[usize; 2], Error> {
        let (free, all) =
            driver::mem_get_info().map_err(|e| refused("asking for the GPU's memory")(&e))?;
        Ok([all - free, all])
    }

    /// Bytes that a copy within the device moves in a second, read and written.
    pub fn copy_rate(stream: sys::CUstream) -> Result<f64, Error> {
        let rate = products::copy_rate(stream);
        rate.map_err(|e| refused("copying on the GPU")(&format_args!("{e}")))
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
        self.gpu.asked.kernels += 1;
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
        self.gpu.asked.products += 1;
        let workspace = self.gpu.workspace(self.stream)?;
        let on = On {
            workspace,
            stream: self.stream,
        };
        self.gpu
            .products
            .run(product, &on)
            .map_err(|e| refused(named(product))(&format_args!("{e}")))
    }

    fn upload(&mut self, bytes: &[u8], to: Pointer) -> Result<(), Error> {
        self.gpu.asked.copies += 1;
        self.gpu.staging.reverse();
        let [next, _] = &mut self.gpu.staging;
        let action = || format!("copying {} bytes to the GPU", bytes.len());
        next.upload(bytes, to, self.stream)
            .map_err(|e| refused(action())(&e))
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
