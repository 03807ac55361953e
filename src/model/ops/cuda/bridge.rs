//! The way from burn's tensors to addresses and a stream: all that is known of CubeCL's
//! inside is in this file.
//!
//! An operation runs on the device's own thread, in the order in which burn's operations
//! are queued, on the stream of the tensors that it works on.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{Cube, CubeBackend};
use cubecl::cuda::CudaRuntime;
use cubecl_common::device_handle::DeviceHandle;
use cubecl_environment::backtrace::BackTrace;
use cubecl_environment::bytes::Bytes;
use cubecl_environment::future::{DynFut, reader};
use cubecl_environment::stream::StreamId;
use cubecl_server::id::KernelId;
use cubecl_server::runtime::Runtime;
use cubecl_server::server::{BufferBinding, ServerError};
use cubecl_server::stream::{ExecuteScope, WriteScoped};

use serde::Serialize;

use super::driver::{Asked, Gpu};
use super::engine::{Engine, Error, Pointer, Precision};
use super::products::{Products, Told};

type Client = cubecl::client::Client;
type Server = <CudaRuntime as Runtime>::Server;

/// Names our work in CubeCL's records.
struct Operation;

thread_local! {
    /// What this device's thread has compiled. A thread has one device.
    static GPU: RefCell<Option<Gpu>> = const { RefCell::new(None) };
    /// Those of [`client_of`].
    static CLIENTS: RefCell<Vec<&'static Client>> = const { RefCell::new(Vec::new()) };
}

/// Runs work on the device after all that was queued before it, with the addresses of
/// arrays that it reads and of those that it writes. An error shows when a result is next
/// read.
pub fn submit(
    of: &CubeTensor,
    precision: Precision,
    reads: &[&CubeTensor],
    writes: &[&CubeTensor],
    work: impl FnOnce(&mut dyn Engine, &[Pointer], &[Pointer]) -> Result<(), Error> + Send + 'static,
) {
    let device = DeviceHandle::<Server>::new(of.client.service_id().device);
    let stream = StreamId::current();
    let bindings = |tensors: &[&CubeTensor]| -> Vec<BufferBinding> {
        let handles = tensors.iter().map(|tensor| tensor.handle.clone());
        handles.map(|handle| handle.binding()).collect()
    };
    let (reads, writes) = (bindings(reads), bindings(writes));
    device.submit(move |server: &mut Server| {
        let id = KernelId::new::<Operation>();
        let scope = ExecuteScope::launching(server, id, stream, reads.iter(), writes.clone());
        // The scope keeps the error for whoever reads what was written.
        drop(scope.execute(|server| {
            let all = || reads.iter().chain(&writes);
            let mut streams = server.write_streams().resolve(stream, all())?;
            let mut pointers = Vec::new();
            for binding in all() {
                let place = binding.memory.descriptor().location();
                streams.current().capturing.touch(binding.stream, place);
                let memory = &mut streams.get(&binding.stream).memory_management_gpu;
                let resource = memory.get_resource(
                    binding.memory.clone(),
                    binding.offset_start,
                    binding.offset_end,
                )?;
                pointers.push(Pointer(resource.ptr));
            }
            let (read, written) = pointers.split_at(reads.len());
            let stream = streams.current().sys;
            run(stream, precision, |engine| work(engine, read, written)).map_err(|error| {
                ServerError::Generic {
                    reason: error.to_string(),
                    backtrace: BackTrace::capture(),
                }
            })
        }));
    });
}

/// What is known of a GPU at work.
#[derive(Clone, Debug, Serialize)]
pub struct Examined {
    /// What it was asked for by us since the program began.
    pub asked: Asked,
    /// Bytes of its memory that are taken, by whomever.
    pub memory_bytes: usize,
    /// All that it has.
    pub memory_all_bytes: usize,
    /// Bytes that a copy moves in a second, read and written; not measured where absent.
    pub copy_bytes_per_s: Option<f64>,
    /// The version of the matrix library.
    pub library: usize,
    /// What was taken for each product.
    pub products: Vec<Told>,
}

/// Asks the GPU that a tensor lies on, after all that was queued; nothing where it lies on
/// none. With `copies`, measures how fast it copies.
pub fn examine(tensor: &Tensor<1>, copies: bool) -> Option<Result<Examined, String>> {
    let tensor = resolved(tensor)?;
    let device = DeviceHandle::<Server>::new(tensor.client.service_id().device);
    let stream = StreamId::current();
    let examined = device.submit_blocking(move |server: &mut Server| {
        let none: [&BufferBinding; 0] = [];
        let mut streams = server.write_streams().resolve(stream, none.into_iter());
        let streams = streams.as_mut().map_err(|error| error.to_string())?;
        let stream = streams.current().sys;
        with_gpu(|gpu| {
            let [memory_bytes, memory_all_bytes] = Gpu::memory()?;
            let copy = copies.then(|| Gpu::copy_rate(stream)).transpose()?;
            Ok(Examined {
                asked: gpu.asked,
                memory_bytes,
                memory_all_bytes,
                copy_bytes_per_s: copy,
                library: Products::version(),
                products: gpu.products.told(),
            })
        })
        .map_err(|error: Error| error.to_string())
    });
    Some(examined.unwrap_or_else(|error| Err(format!("{error:?}"))))
}

/// Lets the GPU that a tensor lies on take for products what was taken elsewhere, if that
/// was with the same version of the library.
pub fn know(tensor: &Tensor<1>, (library, products): (usize, BTreeMap<String, usize>)) {
    let Some(tensor) = resolved(tensor) else {
        return;
    };
    let device = DeviceHandle::<Server>::new(tensor.client.service_id().device);
    device.submit(move |_: &mut Server| {
        // A GPU that cannot be had is told of by the first operation.
        let _told = with_gpu(|gpu| {
            if library == Products::version() {
                gpu.products.know(products);
            }
            Ok(())
        });
    });
}

/// A copy of an array on its way to the host.
pub struct Fetched {
    len: usize,
    bytes: DynFut<Result<Vec<Bytes>, ServerError>>,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fetched({})", self.len)
    }
}

impl Fetched {
    /// Queues the copy behind all that was queued before, and hands everything that was to
    /// the device; nothing where the array lies on no GPU.
    pub fn of(tensor: &Tensor<1>) -> Option<Self> {
        let tensor = resolved(tensor)?;
        let len = tensor.meta.shape().num_elements();
        let bytes = client_of(&tensor).read_async(vec![tensor.handle.clone()]);
        Some(Self {
            len,
            bytes: Box::pin(bytes),
        })
    }

    /// The numbers; waits for their copy, and for nothing that was queued behind it.
    pub fn wait(self) -> Result<TensorData, String> {
        let read = reader::read_sync(self.bytes).map_err(|error| error.to_string())?;
        let bytes = read.into_iter().next();
        let mut bytes = bytes.map(|bytes| bytes.to_vec()).unwrap_or_default();
        bytes.resize(4 * self.len, 0xff);
        Ok(TensorData::from_bytes_vec(bytes, [self.len], DType::F32))
    }
}

/// The client of a tensor's device, of which one stays for good: a copy that is queued
/// borrows it.
fn client_of(tensor: &CubeTensor) -> &'static Client {
    CLIENTS.with_borrow_mut(|clients| {
        let of = tensor.client.service_id();
        let known = clients.iter().find(|client| client.service_id() == of);
        known.copied().unwrap_or_else(|| {
            let client: &'static Client = Box::leak(Box::new(tensor.client.clone()));
            clients.push(client);
            client
        })
    })
}

/// The array behind a tensor, when all that burn has queued was handed to the device.
fn resolved(tensor: &Tensor<1>) -> Option<CubeTensor> {
    let fused = tensor.clone().try_into_primitive::<Cube>().ok()?;
    let client = fused.client.clone();
    let tensor = client.resolve_tensor_float::<CubeBackend>(fused).ok()?;
    Some(into_contiguous(tensor))
}

fn run(
    stream: cudarc::driver::sys::CUstream,
    precision: Precision,
    work: impl FnOnce(&mut dyn Engine) -> Result<(), Error>,
) -> Result<(), Error> {
    with_gpu(|gpu| work(&mut gpu.on(stream, precision)))
}

/// Works with this thread's device.
fn with_gpu<T>(work: impl FnOnce(&mut Gpu) -> Result<T, Error>) -> Result<T, Error> {
    GPU.with_borrow_mut(|gpu| {
        let gpu = match gpu {
            Some(gpu) => gpu,
            None => gpu.insert(Gpu::current()?),
        };
        work(gpu)
    })
}
