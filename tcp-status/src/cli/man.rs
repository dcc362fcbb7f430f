//! The manual page, generated from the one definition.

use std::io;

use clap::CommandFactory as _;
use clap_mangen::Man;

use super::args::Cli;

/// Sections after the commands, as `man-pages(7)` orders them.
const SECTIONS: &str = r".SH EXIT STATUS
.TP
\fB0\fR
Success.
.TP
\fB1\fR
The answer is no: \fBverify\fR found a difference or could not decide, \fBzabbix check\fR failed, or
\fBzabbix install\fR was declined.
.TP
\fB2\fR
Bad usage, or an argument that names nothing.
.TP
\fB3\fR
No tracker answers.
.TP
\fB4\fR
Refused by the kernel or by permission.
.PP
An error is one line on standard error; standard output stays empty.
.SH ENVIRONMENT
.TP
\fBTCP_STATUS_SOCKET\fR
Default of \fB\-\-socket\fR, for the tracker and for clients.
.TP
\fBRUST_LOG\fR
Log level of \fBtcp\-status run\fR: \fIerror\fR, \fIwarn\fR, \fIinfo\fR (default), \fIdebug\fR or
\fItrace\fR.
.TP
\fBNO_COLOR\fR
Turns the colours of \fBtcp\-status top\fR off.
.SH FILES
.TP
\fI/run/tcp\-status/tcp\-status.sock\fR
Default socket of the tracker. Members of its group may query the tracker.
.TP
\fI/sys/kernel/btf/vmlinux\fR
Types of the running kernel, read at the start.
.SH EXAMPLES
Count established connections, and those in TIME_WAIT over IPv6:
.PP
.nf
.RS
tcp\-status get established
tcp\-status get TIME_WAIT \-\-family 6
.RE
.fi
.PP
Show the accept queues of one port:
.PP
.nf
.RS
tcp\-status listeners \-\-port 443
.RE
.fi
.PP
Watch every namespace of the host, with metrics for Prometheus:
.PP
.nf
.RS
tcp\-status run \-\-netns all \-\-metrics 127.0.0.1:9889
.RE
.fi
.PP
Compare the counts with the kernel's listing:
.PP
.nf
.RS
tcp\-status verify
.RE
.fi
.SH SEE ALSO
.BR ss (8),
.BR tcp (7),
.BR network_namespaces (7),
.BR bpf (2),
.BR sock_diag (7)
";

/// One page, with a section for each command.
pub(super) fn man() -> io::Result<String> {
    let mut command = Cli::command();
    command.build();
    let page = Man::new(command.clone())
        .section("8")
        .manual("System administration");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    text.extend_from_slice(b".SH COMMANDS\n");
    for subcommand in command.get_subcommands() {
        section(subcommand.get_name(), subcommand, &mut text)?;
        for part in subcommand.get_subcommands() {
            let name = format!("{} {}", subcommand.get_name(), part.get_name());
            section(&name, part, &mut text)?;
        }
    }
    text.extend_from_slice(SECTIONS.as_bytes());
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn section(name: &str, command: &clap::Command, text: &mut Vec<u8>) -> io::Result<()> {
    let page = Man::new(command.clone());
    let mut parts = Vec::new();
    page.render_synopsis_section(&mut parts)?;
    page.render_description_section(&mut parts)?;
    page.render_options_section(&mut parts)?;
    page.render_extra_section(&mut parts)?;
    text.extend_from_slice(format!(".SS {name}\n").as_bytes());
    // Sections become paragraphs of the subsection.
    for line in String::from_utf8_lossy(&parts).lines() {
        if line.starts_with(".SH ") {
            text.extend_from_slice(b".PP\n");
        } else {
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
        }
    }
    Ok(())
}
