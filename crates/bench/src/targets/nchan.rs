//! Nchan in nginx, the strongest peer to be had as a system package: a generated configuration,
//! one worker, WebSocket and SSE subscribers, publishing by HTTP.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::process::{Process, Scratch, accepts, free_address};
use super::{Dialect, Event, Seat, Server, Transport, Via, channel_name};
use crate::wire::{Framing, http};

const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub(super) fn start(deflate: bool) -> Result<Server> {
    ensure!(Path::new(MODULE).exists(), "no {MODULE}: install the packages nginx and libnginx-mod-nchan");
    let address = free_address()?;
    let folder = Scratch::new()?;
    let path = folder.path().join("nginx.conf");
    fs::write(&path, configuration(&address.to_string(), folder.path(), deflate))?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&path).arg("-p").arg(folder.path());
    let mut process = Process::start(&mut command, folder)?;
    process.wait_until("accepting", || accepts(address))?;
    Ok(Server::owned(address, Box::new(Nchan { host: address.to_string() }), process))
}

fn configuration(address: &str, folder: &Path, deflate: bool) -> String {
    let folder = folder.display();
    let deflate = if deflate { "nchan_deflate_message_for_websocket on;" } else { "" };
    format!(
        "daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
load_module {MODULE};
events {{ worker_connections 20000; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  client_body_temp_path {folder};
  proxy_temp_path {folder};
  fastcgi_temp_path {folder};
  uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  nchan_shared_memory_size 1g;
  server {{
    listen {address} backlog=4096;
    location ~ ^/sub/(.+)$ {{
      nchan_subscriber websocket eventsource;
      nchan_channel_id_split_delimiter \",\";
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
      nchan_websocket_ping_interval 25;
    }}
    location ~ ^/pub/(.+)$ {{
      nchan_publisher http;
      nchan_channel_id $1;
      nchan_message_buffer_length 1000;
      nchan_message_timeout 60s;
      {deflate}
    }}
  }}
}}
"
    )
}

struct Nchan {
    host: String,
}

impl Dialect for Nchan {
    fn framing(&self, seat: &Seat<'_>) -> Framing {
        if seat.transport == Transport::Sse { Framing::Sse } else { Framing::WebSocket }
    }

    fn opening(&self, seat: &Seat<'_>) -> Vec<u8> {
        // Several channels of one connection are joined by commas in Nchan's own way of multiplexing.
        let names: Vec<String> = seat.channels.clone().map(channel_name).collect();
        let path = format!("/sub/{}", names.join(","));
        match seat.transport {
            // HTTP/1.0, as Nchan chunks the stream otherwise, which costs both sides for nothing.
            Transport::Sse => {
                format!("GET {path} HTTP/1.0\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n", self.host)
                    .into_bytes()
            }
            _ => http::upgrade(&self.host, &path, seat.deflate),
        }
    }

    fn publish_opening(&self, via: Via) -> Result<Vec<u8>> {
        match via {
            Via::Http => Ok(Vec::new()),
            Via::Ws => bail!("nchan is measured with publishing over HTTP only"),
        }
    }

    fn write_publish(&self, _via: Via, event: &Event<'_>, out: &mut Vec<u8>) {
        http::write_post(out, &self.host, &format!("/pub/{}", channel_name(event.channel)), "", event.data);
    }
}
