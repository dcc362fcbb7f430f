//! What the kernel says of the eBPF programs and maps of a process, and a program that does
//! nothing: what any program costs.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use aya::{Btf, maps::MapInfo, programs::loaded_programs};
use aya_obj::{
    btf::BtfKind,
    generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type},
};

use crate::files;

/// A program or a map of a process.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) name: String,
    figures: HashMap<String, u64>,
}

impl Object {
    /// A line of its fdinfo, as in `run_time_ns`; 0 if it has none.
    pub(crate) fn figure(&self, name: &str) -> u64 {
        self.figures.get(name).copied().unwrap_or(0)
    }
}

/// The programs of a process by id, in the order in which they were loaded.
pub(crate) fn programs(pid: u32) -> Result<BTreeMap<u64, Object>> {
    let mut objects = objects(pid, "prog_id")?;
    for info in loaded_programs() {
        let info = info?;
        if let Some(object) = objects.get_mut(&u64::from(info.id())) {
            object.name = info.name_as_str().unwrap_or_default().to_owned();
        }
    }
    Ok(objects)
}

/// The maps of a process by id.
pub(crate) fn maps(pid: u32) -> Result<BTreeMap<u64, Object>> {
    let mut objects = objects(pid, "map_id")?;
    for (&id, object) in &mut objects {
        // One that is made for an audit may be gone.
        if let Ok(info) = MapInfo::from_id(id.try_into()?) {
            object.name = info.name_as_str().unwrap_or_default().to_owned();
        }
    }
    Ok(objects)
}

/// What they take of the kernel's memory, in bytes.
pub(crate) fn memory(objects: &BTreeMap<u64, Object>) -> u64 {
    objects
        .values()
        .map(|object| object.figure("memlock"))
        .sum()
}

/// Everything among the open files of a process that has an id of this kind.
fn objects(pid: u32, kind: &str) -> Result<BTreeMap<u64, Object>> {
    let paths = files::list(format!("/proc/{pid}/fdinfo"))?;
    // A file may be closed meanwhile.
    let texts = paths
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    let object = |text: String| {
        let (name, figures) = (String::new(), figures(&text));
        // What is attached names its program as well.
        figures.get("memlock")?;
        Some((*figures.get(kind)?, Object { name, figures }))
    };
    Ok(texts.filter_map(object).collect())
}

fn figures(fdinfo: &str) -> HashMap<String, u64> {
    let figure = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    fdinfo.lines().filter_map(figure).collect()
}

/// A program that does nothing, where the tracker has its own. Goes with this value.
#[derive(Debug)]
pub(crate) struct Empty {
    program: OwnedFd,
    _link: OwnedFd,
}

impl Empty {
    /// At the tracepoint of state changes.
    pub(crate) fn attach() -> Result<Self> {
        let hook = ("btf_trace_inet_sock_set_state", BtfKind::Typedef);
        Self::at(hook, bpf_attach_type::BPF_TRACE_RAW_TP)
    }

    /// Where the kernel enters a function.
    pub(crate) fn at_function(name: &str) -> Result<Self> {
        Self::at((name, BtfKind::Func), bpf_attach_type::BPF_TRACE_FENTRY)
    }

    fn at((name, kind): (&str, BtfKind), how: bpf_attach_type) -> Result<Self> {
        let btf = Btf::from_sys_fs().context("cannot read the types of the kernel")?;
        let hook = btf.id_by_type_name_kind(name, kind)?;
        let program = load(hook, how).context("cannot load an empty eBPF program; run as root")?;
        // SAFETY: zeros are a valid attribute; its members are plain numbers.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.raw_tracepoint.prog_fd = program.as_raw_fd().cast_unsigned();
        let link = bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &attr)
            .context("cannot attach an empty eBPF program")?;
        Ok(Self {
            program,
            _link: link,
        })
    }

    /// How often it ran, and for how many nanoseconds, as the kernel's statistics say.
    pub(crate) fn runs(&self) -> Result<(u64, u64)> {
        let path = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        let figures = figures(&files::read_text(path)?);
        match (figures.get("run_cnt"), figures.get("run_time_ns")) {
            (Some(&count), Some(&time)) => Ok((count, time)),
            _ => bail!("the kernel keeps no statistics of eBPF programs (from 5.12 on it does)"),
        }
    }
}

/// A walk over the sockets of the namespace in which it runs, by a program that does nothing: what any walk
/// costs.
#[derive(Debug)]
pub(crate) struct EmptyWalk(OwnedFd);

impl EmptyWalk {
    pub(crate) fn new() -> Result<Self> {
        let btf = Btf::from_sys_fs().context("cannot read the types of the kernel")?;
        let hook = btf.id_by_type_name_kind("bpf_iter_tcp", BtfKind::Func)?;
        let how = bpf_attach_type::BPF_TRACE_ITER;
        let program = load(hook, how).context("cannot load an empty eBPF program; run as root")?;
        // SAFETY: zeros are a valid attribute; its members are plain numbers.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
        attr.link_create.attach_type = how as u32;
        Ok(Self(bpf(bpf_cmd::BPF_LINK_CREATE, &attr)?))
    }

    pub(crate) fn run(&self) -> Result<()> {
        // SAFETY: as above.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.iter_create.link_fd = self.0.as_raw_fd().cast_unsigned();
        let mut walk = File::from(bpf(bpf_cmd::BPF_ITER_CREATE, &attr)?);
        loop {
            match walk.read(&mut [0]) {
                Ok(0) => return Ok(()),
                // After a million entries.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => drop(other?),
            }
        }
    }
}

fn load(hook: u32, how: bpf_attach_type) -> Result<OwnedFd> {
    let instruction = |code, imm| {
        let mut instruction = bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
            off: 0,
            imm,
        };
        instruction.set_dst_reg(0);
        instruction
    };
    // r0 = 0; exit
    let instructions = [instruction(0xb7, 0), instruction(0x95, 0)];
    // SAFETY: zeros are a valid attribute; its members are plain numbers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: this member of the union is what BPF_PROG_LOAD reads.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
    load.expected_attach_type = how as u32;
    load.insn_cnt = 2;
    load.insns = instructions.as_ptr() as u64;
    load.license = c"GPL".as_ptr() as u64;
    load.attach_btf_id = hook;
    bpf(bpf_cmd::BPF_PROG_LOAD, &attr)
}

/// The system call, for commands that give a file.
fn bpf(command: bpf_cmd, attr: &bpf_attr) -> Result<OwnedFd> {
    // SAFETY: the attribute is as large as is said, and what it points to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as u32, attr, size_of::<bpf_attr>()) };
    match i32::try_from(result) {
        // SAFETY: the kernel gave this file to nobody else.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::figures;

    #[test]
    fn figures_of_a_program_are_read() {
        let text = "pos:\t0\nprog_tag:\ta04f5e\nmemlock:\t4096\nrun_time_ns:\t77\nrun_cnt:\t3\n";
        let figures = figures(text);
        assert_eq!(figures.get("run_time_ns"), Some(&77));
        assert_eq!(figures.get("memlock"), Some(&4096));
        assert_eq!(figures.get("prog_tag"), None);
    }
}
