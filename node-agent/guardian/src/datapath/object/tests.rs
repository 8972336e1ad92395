//! What the kernel refuses, and what merely interrupts it. Needs root.

use std::sync::atomic::Ordering;
use std::sync::mpsc;

use super::*;

/// The object with its first classifier beginning with another instruction.
fn beginning_with(instruction: [u8; 8]) -> Vec<u8> {
    let mut object = OBJECT.to_vec();
    let start = section(&object, "classifier");
    object[start..start + 8].copy_from_slice(&instruction);
    object
}

/// Where a section of a 64-bit little-endian ELF file begins.
fn section(elf: &[u8], name: &str) -> usize {
    let number = |at: usize, length: usize| {
        elf[at..at + length].iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let (headers, size, count, names) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2), number(0x3e, 2));
    let names = number(headers + names * size + 0x18, 8);
    let of = |index: usize| {
        let header = headers + index * size;
        let called = &elf[names + number(header, 4)..];
        (called.split(|byte| *byte == 0).next() == Some(name.as_bytes())).then(|| number(header + 0x18, 8))
    };
    (0..count).find_map(of).expect("a section of that name")
}

/// The one refusal among the programs of such an object.
fn refusal(instruction: [u8; 8]) -> DatapathError {
    let mut ebpf = load_object(&beginning_with(instruction)).expect("the maps are good");
    let refused = program::CLASSIFIERS.into_iter().filter_map(|name| classifier(&mut ebpf, name, &mut || {}).err());
    let mut refused: Vec<_> = refused.collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    refused.remove(0)
}

#[test]
fn the_verifiers_reason_is_told() {
    // `r0 = r5`, which nobody has written.
    let error = refusal([0xbf, 0x50, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(error, DatapathError::Load { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("the verifier says: ") && text.contains("R5 !read_ok") && text.contains("uname -r"),
        "{text}"
    );
    assert!(!text.contains("processed "), "{text}");
}

#[test]
fn a_function_that_the_kernel_lacks_means_that_it_is_too_old() {
    // `call 32767`
    let error = refusal([0x85, 0, 0, 0, 0xff, 0x7f, 0, 0]);
    assert!(matches!(error, DatapathError::KernelTooOld { .. }), "{error}");
    assert!(error.to_string().contains("32767"), "{error}");
}

#[test]
fn an_interrupted_load_is_repeated_and_not_for_ever() {
    let interrupted = |error: &io::Error| is_interruption(error);
    let mut left = 5;
    let done = repeat(
        || {
            left -= 1;
            if left > 0 { Err(io::Error::from_raw_os_error(libc::EAGAIN)) } else { Ok(()) }
        },
        interrupted,
        &mut || {},
    );
    assert!(matches!(done, Some(Ok(()))) && left == 0);
    let refused = repeat(|| Err(io::Error::from_raw_os_error(libc::EINVAL)), interrupted, &mut || {});
    assert!(matches!(refused, Some(Err(_))), "a refusal is not repeated");
    let mut tries = 0;
    let done = repeat(
        || {
            tries += 1;
            Err(io::Error::from_raw_os_error(libc::EAGAIN))
        },
        interrupted,
        &mut || {},
    );
    assert!(done.is_none());
    assert_eq!(tries, TRIES);
    for attempt in 0..TRIES {
        let pause = pause_after(attempt);
        assert!(pause >= Duration::from_millis(1) && pause <= LONGEST_PAUSE * 3 / 2, "{pause:?}");
    }
}

extern "C" fn nothing(_signal: libc::c_int) {}

#[test]
#[expect(unsafe_code, reason = "a handler, and signals for one thread")]
fn signals_while_the_verifier_reads_are_waited_out() {
    // Until this many interruptions have been seen; a sender that is never lucky gives up.
    const ENOUGH: u32 = 3;
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: the handler does nothing at all.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    let before = INTERRUPTED.load(Ordering::Relaxed);
    let enough = move || INTERRUPTED.load(Ordering::Relaxed) - before >= ENOUGH;
    let (tell, told) = mpsc::channel();
    let loader = thread::spawn(move || {
        // SAFETY: gettid takes nothing.
        tell.send(unsafe { libc::gettid() }).expect("the test waits");
        for _ in 0..200 {
            all_classifiers(&mut load()?)?;
            if enough() {
                break;
            }
        }
        Ok::<_, DatapathError>(())
    });
    let thread = told.recv().expect("started");
    while !loader.is_finished() && !enough() {
        // SAFETY: a thread of this process, or ESRCH.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) };
        thread::sleep(Duration::from_millis(1));
    }
    loader.join().expect("no panic").expect("loaded in spite of the signals");
    assert!(enough(), "no signal met the verifier");
}
