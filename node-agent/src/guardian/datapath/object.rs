//! The eBPF object: embedded, and loaded program by program.

use std::error::Error;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;

use aya::maps::MapError;
use aya::programs::{ProgramError, SchedClassifier, SkLookup};
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use redir_abi::program;

use super::{DatapathError, Device, Framing};

/// What `build.rs` has built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redir-ebpf"));

/// Made once: a new loader reads all of the kernel's type information, 20 MiB and 20 ms, which these programs do not need.
static LOADER: Mutex<Option<EbpfLoader<'static>>> = Mutex::new(None);

/// Creates the maps of one pod. No program is loaded yet.
pub(super) fn load() -> Result<Ebpf, DatapathError> {
    let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
    loader.get_or_insert_with(new_loader).load(OBJECT).map_err(refused_object)
}

fn new_loader() -> EbpfLoader<'static> {
    // Kernels before 5.11 count maps against this limit; where raising it is not permitted, the maps may still fit.
    let _may_fail = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let make = || {
        let mut loader = EbpfLoader::new();
        loader.btf(None).verifier_log_level(VerifierLogLevel::DISABLE);
        loader
    };
    // What is freed on a thread of its own goes back to the system: 20 MiB less resident, measured.
    thread::scope(|scope| scope.spawn(make).join()).unwrap_or_else(|_panic| make())
}

/// The program for a device's ingress.
pub(super) fn steer_for(device: &Device) -> &'static str {
    match device.framing {
        Framing::Ethernet => program::STEER,
        Framing::Bare => program::STEER_L3,
    }
}

/// The program for a device's egress.
pub(super) fn reflect_for(device: &Device) -> &'static str {
    match device.framing {
        Framing::Ethernet => program::REFLECT,
        Framing::Bare => program::REFLECT_L3,
    }
}

/// The named classifier, loaded into the kernel on first use.
pub(super) fn classifier<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program =
        ebpf.program_mut(name).ok_or(DatapathError::Load { program: name, detail: "not in the object".into() })?;
    let program: &mut SchedClassifier = program.try_into().map_err(|e| refused_program(name, &e))?;
    if program.fd().is_err() {
        program.load().map_err(|e| refused_program(name, &e))?;
    }
    Ok(program)
}

/// The companion, loaded into the kernel on first use.
pub(super) fn companion(ebpf: &mut Ebpf) -> Result<&mut SkLookup, DatapathError> {
    let name = program::TIME_WAIT;
    let program =
        ebpf.program_mut(name).ok_or(DatapathError::Load { program: name, detail: "not in the object".into() })?;
    let program: &mut SkLookup = program.try_into().map_err(|e| refused_program(name, &e))?;
    if program.fd().is_err() {
        program.load().map_err(|e| refused_program(name, &e))?;
    }
    Ok(program)
}

fn refused_object(error: EbpfError) -> DatapathError {
    let detail = chain(&error);
    match error {
        EbpfError::MapError(MapError::CreateError { io_error, .. }) => match io_error.raw_os_error() {
            Some(libc::EPERM) => DatapathError::Permission { action: "create the maps" },
            Some(libc::ENOSYS | libc::EINVAL) => DatapathError::KernelTooOld { detail },
            _ => DatapathError::Load { program: "the maps", detail },
        },
        _ => DatapathError::Load { program: "the object", detail },
    }
}

fn refused_program(program: &'static str, error: &ProgramError) -> DatapathError {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return DatapathError::Load { program, detail: chain(error) };
    };
    if io_error.raw_os_error() == Some(libc::EPERM) {
        return DatapathError::Permission { action: "load the programs" };
    }
    let log = verifier_log.to_string();
    let tail: Vec<&str> = log.lines().rev().filter(|line| !line.is_empty()).take(3).collect();
    let said = tail.into_iter().rev().collect::<Vec<_>>().join("; ");
    if said.contains("unknown func") || said.contains("invalid func") || io_error.raw_os_error() == Some(libc::ENOSYS) {
        return DatapathError::KernelTooOld { detail: format!("{program}: {said}") };
    }
    DatapathError::Load { program, detail: format!("{io_error}; the verifier says: {said}") }
}

/// An error with its causes, once each.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// A map's error in our words.
pub(super) fn map_error(name: &'static str, error: &MapError) -> DatapathError {
    DatapathError::Map { name, detail: chain(error) }
}

/// A missing map: the object and this code are of different builds.
pub(super) fn map_missing(name: &'static str) -> DatapathError {
    DatapathError::Map { name, detail: io::Error::from(io::ErrorKind::NotFound).to_string() }
}
