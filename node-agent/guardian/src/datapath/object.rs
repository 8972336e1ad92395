//! The eBPF object: embedded, and loaded program by program.

use std::{
    error::Error,
    hash::{BuildHasher, RandomState},
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapError},
    programs::{Program, ProgramError, SchedClassifier, SkLookup, SocketFilter},
};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use redir_abi::{map, program};

use super::{DatapathError, LinkLayer, PodDevice, YieldPoint, link, storage};
use crate::preflight::may_load_programs;

/// What `build.rs` has built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redir-ebpf"));

/// Made once: a new loader reads all of the kernel's type information, 20 MiB and 20 ms, which these programs do not need.
static LOADER: Mutex<Option<EbpfLoader<'static>>> = Mutex::new(None);

/// Creates the maps of one pod. No program is loaded yet.
pub(super) fn load() -> Result<Ebpf, DatapathError> {
    load_object(OBJECT)
}

fn load_object(object: &[u8]) -> Result<Ebpf, DatapathError> {
    let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
    let ebpf = loader.get_or_insert_with(new_loader).load(object).map_err(refused_object)?;
    make_socket_storage(&ebpf)?;
    Ok(ebpf)
}

/// The programs name the map by the descriptor of what stands in for it, until they are loaded.
fn make_socket_storage(ebpf: &Ebpf) -> Result<(), DatapathError> {
    let Some(Map::Array(stand_in)) = ebpf.map(map::LEG_SOCKETS) else { return Err(map_missing(map::LEG_SOCKETS)) };
    let made = storage::create().and_then(|made| storage::take_place_of(stand_in.fd().as_fd(), &made));
    made.map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => not_permitted("create the map of sockets"),
        _ => DatapathError::Map { name: map::LEG_SOCKETS, detail: error.to_string() },
    })
}

fn new_loader() -> EbpfLoader<'static> {
    // Some kernels count maps and programs against this limit; where raising it is not permitted, they may still fit.
    let _may_fail = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let make = || {
        let mut loader = EbpfLoader::new();
        // aya asks for the log only once the kernel has refused a program: what is accepted costs nothing more.
        loader.btf(None).verifier_log_level(VerifierLogLevel::VERBOSE);
        loader
    };
    // What is freed on a thread of its own goes back to the system: 20 MiB less resident, measured.
    thread::scope(|scope| scope.spawn(make).join()).unwrap_or_else(|_panic| make())
}

/// The program for a device's ingress.
pub(super) fn steer_for(device: &PodDevice) -> &'static str {
    match device.framing {
        LinkLayer::Ethernet => program::STEER,
        LinkLayer::Bare => program::STEER_L3,
    }
}

/// The program for a device's egress.
pub(super) fn reflect_for(device: &PodDevice) -> &'static str {
    match device.framing {
        LinkLayer::Ethernet => program::REFLECT,
        LinkLayer::Bare => program::REFLECT_L3,
    }
}

/// The named classifier, loaded into the kernel on first use.
pub(super) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
    pause: YieldPoint<'_>,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program =
        ebpf.program_mut(name).ok_or(DatapathError::Load { program: name, detail: "not in the object".into() })?;
    let program: &mut SchedClassifier = program.try_into().map_err(|e| refused_program(name, &e))?;
    if program.fd().is_err() {
        load_patiently(name, || program.load(), pause)?;
    }
    Ok(program)
}

/// Loads all of them: shows what the kernel refuses, whatever devices there are.
pub(super) fn all_classifiers(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    program::CLASSIFIERS.iter().try_for_each(|name| classifier(ebpf, name, &mut || {}).map(drop))
}

/// The companion, loaded into the kernel on first use.
pub(super) fn companion<'a>(ebpf: &'a mut Ebpf, pause: YieldPoint<'_>) -> Result<&'a mut SkLookup, DatapathError> {
    let name = program::SK_LOOKUP;
    let program =
        ebpf.program_mut(name).ok_or(DatapathError::Load { program: name, detail: "not in the object".into() })?;
    let program: &mut SkLookup = program.try_into().map_err(|e| refused_program(name, &e))?;
    if program.fd().is_err() {
        load_patiently(name, || program.load(), pause)?;
    }
    Ok(program)
}

/// Loads the filter of the agent's sockets.
pub(super) fn load_filter(ebpf: &mut Ebpf, pause: YieldPoint<'_>) -> Result<(), DatapathError> {
    let name = program::FILTER;
    let program =
        ebpf.program_mut(name).ok_or(DatapathError::Load { program: name, detail: "not in the object".into() })?;
    let program: &mut SocketFilter = program.try_into().map_err(|e| refused_program(name, &e))?;
    load_patiently(name, || program.load(), pause)
}

/// The filter of the agent's sockets; None unless it is loaded.
pub(super) fn socket_filter(ebpf: &Ebpf) -> Option<BorrowedFd<'_>> {
    let Some(Program::SocketFilter(program)) = ebpf.program(program::FILTER) else { return None };
    program.fd().ok().map(AsFd::as_fd)
}

/// Loads a program. The verifier gives up with EAGAIN when a signal is pending for the thread, which says nothing about the
/// program: then it is tried again, for some two seconds.
fn load_patiently(
    name: &'static str,
    load: impl FnMut() -> Result<(), ProgramError>,
    pause: YieldPoint<'_>,
) -> Result<(), DatapathError> {
    let interrupted = |error: &ProgramError| {
        let met = matches!(error, ProgramError::LoadError { io_error, .. } if is_interruption(io_error));
        #[cfg(test)]
        INTERRUPTED.fetch_add(u32::from(met), std::sync::atomic::Ordering::Relaxed);
        met
    };
    match repeat(load, interrupted, pause) {
        Some(loaded) => loaded.map_err(|e| refused_program(name, &e)),
        None => Err(DatapathError::Interrupted { program: name }),
    }
}

/// Tries until a try is not interrupted; None if all of [`TRIES`] were.
fn repeat<E>(
    mut attempt: impl FnMut() -> Result<(), E>,
    interrupted: impl Fn(&E) -> bool,
    pause: YieldPoint<'_>,
) -> Option<Result<(), E>> {
    for number in 0..TRIES {
        match attempt() {
            Err(error) if interrupted(&error) => {
                tracing::debug!(number, "a signal interrupted the verifier");
                thread::sleep(pause_after(number));
                pause();
            }
            done => return Some(done),
        }
    }
    None
}

fn is_interruption(error: &io::Error) -> bool {
    // ENOSPC: the first try was interrupted, and the log of aya's second, which is accepted, does not fit.
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::ENOSPC))
}

/// 1 ms, 2 ms, … up to [`LONGEST_PAUSE`], and up to half of that more: signals that come at fixed times are not met each time.
fn pause_after(attempt: u32) -> Duration {
    let pause = Duration::from_millis(1 << attempt.min(16)).min(LONGEST_PAUSE);
    let random = RandomState::new().hash_one(attempt) % 1024;
    pause + pause.mul_f64(f64::from(u16::try_from(random).unwrap_or_default()) / 2048.0)
}

/// How often a program is loaded while signals interrupt it.
const TRIES: u32 = 64;
/// Between two tries; other pods' quick requests wait for it.
const LONGEST_PAUSE: Duration = Duration::from_millis(32);
/// How often the verifier was interrupted in this process.
#[cfg(test)]
static INTERRUPTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

fn refused_object(error: EbpfError) -> DatapathError {
    let detail = chain(&error);
    match error {
        EbpfError::MapError(MapError::CreateError { io_error, .. }) => match io_error.raw_os_error() {
            Some(libc::EPERM) => not_permitted("create the maps"),
            Some(libc::ENOSYS | libc::EINVAL) => DatapathError::KernelTooOld { detail },
            _ => DatapathError::Load { program: "the maps", detail },
        },
        _ => DatapathError::Load { program: "the object", detail },
    }
}

/// EPERM has two causes: a lack of rights, and where maps and programs count against it a limit that is used up.
fn not_permitted(action: &'static str) -> DatapathError {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(RLIM_INFINITY, |(soft, _)| soft);
    // Whoever may not ask at all does not learn that the kind of map is unknown.
    let refused_by_rights = !may_load_programs() || link::is_forbidden();
    match limit == RLIM_INFINITY || refused_by_rights {
        true => DatapathError::Permission { action },
        false => DatapathError::LockedMemory { action, limit },
    }
}

fn refused_program(program: &'static str, error: &ProgramError) -> DatapathError {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return DatapathError::Load { program, detail: chain(error) };
    };
    if io_error.raw_os_error() == Some(libc::EPERM) {
        return not_permitted("load the programs");
    }
    let said = last_words(&verifier_log.to_string());
    let unknown_function = said.contains("unknown func") || said.contains("invalid func");
    // Without a word the kernel does not even know this kind of program.
    let unknown_kind = said.is_empty() && io_error.raw_os_error() == Some(libc::EINVAL);
    if unknown_function || unknown_kind || io_error.raw_os_error() == Some(libc::ENOSYS) {
        let detail = if said.is_empty() { io_error.to_string() } else { said };
        return DatapathError::KernelTooOld { detail: format!("{program}: {detail}") };
    }
    let said = if said.is_empty() { "nothing".to_owned() } else { said };
    DatapathError::Load { program, detail: format!("{io_error}; the verifier says: {said}") }
}

/// The end of the verifier's log, which says why it refuses; its statistics come after that.
fn last_words(log: &str) -> String {
    let statistics = ["processed ", "verification time", "stack depth"];
    let words = log.lines().filter(|line| !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start)));
    let last: Vec<&str> = words.collect();
    last[last.len().saturating_sub(3)..].join("; ")
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

#[cfg(test)]
mod tests;
