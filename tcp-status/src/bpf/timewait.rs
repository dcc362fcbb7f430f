//! The programs that follow timewait minisockets. They are loaded with the others and attached
//! apart: for a hook at a function, the kernel may wait until every task has slept once.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::OnceLock,
};

use aya::{
    Btf, Ebpf,
    programs::{FEntry, FExit, ProgramError},
};

use super::{BpfError, object::program};

/// What is attached where, in this order, and whether it is a second copy. What ends minisockets
/// comes first: an unmatched end is safer than an unmatched birth.
const HANDLERS: [(&str, &str, AttachPoint); 5] = [
    ("tw_destroy", "inet_twsk_kill", AttachPoint::Entry),
    (
        "tw_segment_entry",
        "tcp_timewait_state_process",
        AttachPoint::Entry,
    ),
    (
        "tw_segment_exit",
        "tcp_timewait_state_process",
        AttachPoint::Exit,
    ),
    (COPIES[0], "inet_twsk_alloc", AttachPoint::Exit),
    (COPIES[1], "inet_twsk_alloc", AttachPoint::Exit),
];
/// Both copies of the program that sees births.
const COPIES: [&str; 2] = ["tw_create_first", "tw_create_second"];

/// The programs that are attached once.
pub(super) fn attached_once() -> impl Iterator<Item = &'static str> {
    let names = HANDLERS.iter().map(|(name, ..)| *name);
    names.filter(|name| !COPIES.contains(name))
}

#[derive(Clone, Copy)]
enum AttachPoint {
    Entry,
    Exit,
}

/// Programs that are loaded, and their links once they are attached.
#[derive(Default)]
pub(super) struct TimewaitPrograms {
    pub(super) programs: Vec<(&'static str, OwnedFd)>,
    pub(super) links: OnceLock<Vec<OwnedFd>>,
}

impl TimewaitPrograms {
    pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf, copies: usize) -> Result<Self, BpfError> {
        let mut programs = Vec::new();
        for (name, function, at) in HANDLERS {
            if copies < 2 && name == COPIES[1] {
                continue;
            }
            let loaded = load(ebpf, name, function, at, btf)?;
            programs.push((
                function,
                loaded.map_err(|source| BpfError::Timewait { function, source })?,
            ));
        }
        Ok(Self {
            programs,
            links: OnceLock::new(),
        })
    }
}

fn load(
    ebpf: &mut Ebpf,
    name: &'static str,
    function: &'static str,
    at: AttachPoint,
    btf: &Btf,
) -> Result<Result<OwnedFd, ProgramError>, BpfError> {
    let fd = |fd: &aya::programs::ProgramFd| Ok(fd.as_fd().try_clone_to_owned()?);
    Ok(match at {
        AttachPoint::Entry => {
            let program: &mut FEntry = program(ebpf, name)?;
            let loaded = program.load(function, btf);
            loaded.and_then(|()| program.fd().and_then(fd))
        }
        AttachPoint::Exit => {
            let program: &mut FExit = program(ebpf, name)?;
            let loaded = program.load(function, btf);
            loaded.and_then(|()| program.fd().and_then(fd))
        }
    })
}

/// Attaches a loaded program to the function that it was loaded for. As aya does it, but without
/// the object that owns the program: walks need that meanwhile.
pub(super) fn attach(program: &OwnedFd) -> io::Result<OwnedFd> {
    /// `BPF_RAW_TRACEPOINT_OPEN` of `enum bpf_cmd`.
    const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
    /// The part of `union bpf_attr` that the command reads.
    #[repr(C)]
    struct Attributes {
        name: u64,
        prog_fd: libc::c_int,
        reserved: u32,
    }
    let attributes = Attributes {
        name: 0,
        prog_fd: program.as_raw_fd(),
        reserved: 0,
    };
    // SAFETY: the kernel reads as many bytes as it is given, and writes none.
    let link = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            RAW_TRACEPOINT_OPEN,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    let link = i32::try_from(link).map_err(io::Error::other)?;
    if link < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a file descriptor that the kernel has just opened.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}
