//! `cargo xtask types`: a kernel's BTF, reduced to the types that tcp-status looks up, as test data.
//!
//! Kept as they are: the structures in [`STRUCTURES`] with every type that lies in them, and the
//! names in [`TYPEDEFS`] and [`FUNCTIONS`]. Left out: what pointers and those names lead to, values
//! of enumerations, parameters, attributes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{files, step::step};

#[derive(Debug, Args)]
pub(crate) struct TypesArgs {
    /// BTF as in /sys/kernel/btf/vmlinux, or a vmlinuz for x86-64
    kernel: PathBuf,
    /// File to write
    output: PathBuf,
}

/// Structures and unions whose members tcp-status reads, or whose presence says something.
const STRUCTURES: &str = "\
    bpf_raw_tp_link bpf_tcp_iter_batch_item bpf_tcp_iter_state cgroup inet_connection_sock \
    inet_ehash_bucket inet_hashinfo inet_listen_hashbucket inet_request_sock inet_sock \
    inet_timewait_death_row inet_timewait_sock kernfs_node net nsproxy sock spinlock task_struct \
    tcp_sock tp_transition_snapshot";

/// Typed tracepoints and helpers are found by such names; these are how they begin.
const TYPEDEFS: &str = "btf_trace_inet_sock_set_state btf_bpf_get_current_";

/// How the functions begin to which programs are attached, or whose presence says something.
const FUNCTIONS: &str = "\
    __inet_csk_reqsk_queue_ bpf_iter_tcp bpf_prog_ inet_csk_ inet_twsk_ reqsk_ tcp_conn_request \
    tcp_timewait_state_process";

pub(crate) fn run(args: &TypesArgs) -> Result<()> {
    let shown = args.kernel.display();
    let mut bytes = files::read(&args.kernel)?;
    if !bytes.starts_with(&MAGIC) {
        bytes = embedded(&bytes).with_context(|| format!("cannot find BTF in {shown}"))?;
    }
    let reduced = reduce(&bytes).with_context(|| format!("cannot reduce the BTF of {shown}"))?;
    files::write(&args.output, reduced)
}

/// `BTF_MAGIC` and the version, little-endian.
const MAGIC: [u8; 3] = [0x9f, 0xeb, 1];
/// `struct btf_header` without what later kernels add.
const HEADER: u32 = 24;
/// `struct btf_type`.
const TYPE: usize = 12;

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const ENUM64: u32 = 19;

/// The BTF within a bzImage: Documentation/arch/x86/boot.rst of the kernel.
fn embedded(image: &[u8]) -> Result<Vec<u8>> {
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "no bzImage");
    let setup = (usize::from(image[0x1f1]) + 1) * 512;
    let start = setup + word(image, 0x248)?;
    let packed = image
        .get(start..start + word(image, 0x24c)?)
        .context("the payload lies outside of the image")?;
    let program = match packed {
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0xfd, b'7', b'z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => bail!("the payload is packed by none of LZ4, XZ and Zstandard"),
    };
    // The last four bytes are its unpacked size, which no program expects.
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let path = folder.path().join("payload");
    files::write(&path, &packed[..packed.len() - 4])?;
    let kernel = step!(program, "-dc", path).bytes()?;
    let is_header = |bytes: &[u8]| matches!(bytes, [0x9f, 0xeb, 1, 0, 24 | 32, 0, 0, 0]);
    let btf = kernel.windows(8).position(is_header);
    Ok(kernel[btf.context("the kernel has no section .BTF")?..].to_vec())
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let number = bytes.get(at..).and_then(|rest| rest.first_chunk().copied());
    Ok(u32::from_le_bytes(number.context("a number lies behind the end")?) as usize)
}

/// One type: the words behind its name, and its name.
#[derive(Debug, Clone)]
struct Type<'a> {
    name: &'a str,
    words: Vec<u32>,
    /// Of each member.
    members: Vec<&'a str>,
}

impl Type<'_> {
    fn kind(&self) -> u32 {
        self.words[0] >> 24 & 0x1f
    }

    /// Positions in `words` of the types that lie in this one.
    fn contained(&self) -> Vec<usize> {
        match self.kind() {
            ARRAY => vec![2, 3],
            STRUCT | UNION => (0..self.members.len())
                .map(|member| 2 + member * 2)
                .collect(),
            // Typedefs, const, volatile, restrict, tags of types.
            8..=11 | 18 => vec![1],
            _ => Vec::new(),
        }
    }

    fn is_root(&self) -> bool {
        let begins = |starts: &str| starts.split(' ').any(|start| self.name.starts_with(start));
        match self.kind() {
            STRUCT | UNION => STRUCTURES.split(' ').any(|name| name == self.name),
            TYPEDEF => begins(TYPEDEFS),
            FUNC => begins(FUNCTIONS),
            _ => false,
        }
    }

    /// Leaves out what nothing looks at.
    fn cut(&mut self) {
        match self.kind() {
            PTR => self.words[1] = 0,
            TYPEDEF if self.is_root() => self.words[1] = 0,
            FUNC => self.words[1] = 0,
            ENUM | ENUM64 => {
                self.words[0] &= !0xffff;
                self.words.truncate(2);
            }
            _ => {}
        }
    }
}

/// All types; the first is number 1.
fn parse(btf: &[u8]) -> Result<Vec<Type<'_>>> {
    let header = word(btf, 4)?;
    let section = |at: usize| -> Result<&[u8]> {
        let start = header + word(btf, at)?;
        btf.get(start..start + word(btf, at + 4)?)
            .context("a section lies behind the end")
    };
    let (mut types, names) = (section(8)?, section(16)?);
    let name = |offset: u32| -> Result<&str> {
        let bytes = names.get(offset as usize..).context("no such name")?;
        let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(std::str::from_utf8(bytes)?)
    };
    let mut found = Vec::new();
    while !types.is_empty() {
        let information = word(types, 4)?;
        let count = information & 0xffff;
        let more = match u32::try_from(information >> 24 & 0x1f)? {
            INT | 14 | 17 => 1,
            ARRAY => 3,
            STRUCT | UNION | 15 | ENUM64 => count * 3,
            ENUM | FUNC_PROTO => count * 2,
            PTR | 7..=12 | 16 | 18 => 0,
            kind => bail!("a type is of the unknown kind {kind}"),
        };
        let size = TYPE + more * 4;
        let words: Result<Vec<u32>> = (0..size)
            .step_by(4)
            .map(|at| Ok(u32::try_from(word(types, at)?)?))
            .collect();
        let mut words = words?;
        let mut members = Vec::new();
        let own = name(words.remove(0))?;
        if matches!(words[0] >> 24 & 0x1f, STRUCT | UNION) {
            for member in 0..count {
                members.push(name(words.remove(2 + member * 2))?);
            }
        }
        found.push(Type {
            name: own,
            words,
            members,
        });
        types = types.get(size..).context("a type is cut short")?;
    }
    Ok(found)
}

fn reduce(btf: &[u8]) -> Result<Vec<u8>> {
    let mut types = parse(btf)?;
    for of in &mut types {
        of.cut();
    }
    let mut kept = BTreeSet::new();
    // Kernels before 5.2 may bring each type once for each file that they are built from.
    let mut roots = BTreeMap::new();
    for (of, id) in types.iter().zip(1..).filter(|(of, _)| of.is_root()) {
        roots.entry((of.kind(), of.name)).or_insert(id);
    }
    let mut open: Vec<usize> = roots.into_values().collect();
    while let Some(id) = open.pop() {
        if id != 0 && kept.insert(id) {
            let of = types.get(id - 1).context("no such type")?;
            open.extend(of.contained().into_iter().map(|at| of.words[at] as usize));
        }
    }
    let numbers: BTreeMap<usize, u32> = [0]
        .into_iter()
        .chain(kept.iter().copied())
        .zip(0..)
        .collect();
    let (mut names, mut offsets) = (vec![0], BTreeMap::from([(String::new(), 0)]));
    // Of a name, each of which is kept once.
    let mut offset = |name: &str| -> Result<u32> {
        if let Some(&offset) = offsets.get(name) {
            return Ok(offset);
        }
        let offset = u32::try_from(names.len())?;
        names.extend(name.bytes().chain([0]));
        offsets.insert(name.to_owned(), offset);
        Ok(offset)
    };
    let mut written: Vec<u32> = Vec::new();
    for id in kept {
        let mut of = types[id - 1].clone();
        for at in of.contained() {
            of.words[at] = numbers[&(of.words[at] as usize)];
        }
        written.push(offset(of.name)?);
        written.extend(&of.words[..2]);
        if of.members.is_empty() {
            written.extend(&of.words[2..]);
        }
        for (member, words) in of.members.iter().zip(of.words[2..].chunks(2)) {
            written.push(offset(member)?);
            written.extend(words);
        }
    }
    let length = u32::try_from(written.len() * 4)?;
    let header = [HEADER, 0, length, length, u32::try_from(names.len())?];
    let numbers = header
        .iter()
        .chain(&written)
        .flat_map(|number| number.to_le_bytes());
    Ok(MAGIC
        .into_iter()
        .chain([0])
        .chain(numbers)
        .chain(names)
        .collect())
}
