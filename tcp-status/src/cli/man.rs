//! The manual page, generated from the one definition.

use std::io;

use clap::CommandFactory as _;
use clap_mangen::Man;

use super::args::Cli;

const FILES: &str = r".SH FILES
.TP
\fI/run/tcp\-status/tcp\-status.sock\fR
The socket of the tracker, unless \fB\-\-socket\fR or \fBTCP_STATUS_SOCKET\fR name another one.
.SH ENVIRONMENT
.TP
\fBTCP_STATUS_SOCKET\fR
Default of \fB\-\-socket\fR, for the tracker and for its clients.
.TP
\fBRUST_LOG\fR
What \fBtcp\-status run\fR logs to standard error: \fIerror\fR, \fIwarn\fR, \fIinfo\fR (the
default), \fIdebug\fR or \fItrace\fR.
.SH EXAMPLES
.nf
tcp\-status run &
tcp\-status get established
tcp\-status get TIME_WAIT \-\-family 6
tcp\-status show \-\-json
tcp\-status listeners \-\-port 443
tcp\-status top \-\-interval 500ms
tcp\-status verify
.fi
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
    page.render_extra_section(&mut text)?;
    text.extend_from_slice(FILES.as_bytes());
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
    // What is a section of its own there is a part of one here.
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
