//! Finds the owner of a TCP connection within this machine. The kernel tells over `sock_diag(7)` which user made a TCP
//! socket, and in which cgroup. The client's own socket is asked about, by its exact addresses and ports.
//!
//! The one request and the few fields of the answer are written out here, since the crates for this protocol have some
//! 4,500 lines and a derive macro.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::NLMSG_ERROR;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, sendto, socket,
};
use nix::unistd::geteuid;

/// `struct nlmsghdr`
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`
const REQUEST: usize = 56;
/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `TCP_ESTABLISHED` of netinet/tcp.h
const ESTABLISHED: u8 = 1;
/// `struct inet_diag_msg`, after which come attributes
const ANSWER: usize = 72;
/// `INET_DIAG_CGROUP_ID` of `linux/inet_diag.h`, an attribute that the kernel adds unasked since Linux 5.8
const CGROUP_ID: u16 = 21;
/// `NLA_TYPE_MASK` of `linux/netlink.h`
const TYPE_MASK: u16 = 0x3fff;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// Who made the client's socket. It stays the same when the process moves to another cgroup or ends (`docs/protocol.md`,
/// "The kernel and systemd", row "Unit behind a loopback connection").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Effective user id.
    pub uid: u32,
    /// The id of the cgroup in the unified hierarchy. Ids are never reused, not even for a group of the same name. `None`
    /// if the kernel does not tell it.
    pub cgroup: Option<u64>,
}

/// Why the owner is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unowned {
    /// The client has closed its socket, wholly or for sending.
    #[error("the client's socket is closed already")]
    Gone,
    /// The system call failed.
    #[error("sock_diag(7): {0}")]
    Kernel(#[from] Errno),
}

/// The owner of the connection from `client` to `dialled`. `dialled` is the address that the client connected to, also if
/// a firewall rule redirected it.
///
/// A closed socket that the kernel still keeps (`FIN_WAIT2`, `TIME_WAIT`) has no inode and shows uid 0. If the socket is
/// gone, the kernel answers with the socket that listens on its port. So only a connected socket with an inode counts
/// (`docs/protocol.md`, "The kernel and systemd", row "Peer of a loopback connection").
pub fn owner(client: SocketAddr, dialled: SocketAddr) -> Result<Owner, Unowned> {
    let kernel = NetlinkAddr::new(0, 0);
    // A new netlink socket for each question costs a few microseconds, and an answer cannot belong to another question.
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkSockDiag,
    )?;
    sendto(
        netlink.as_raw_fd(),
        &question(client, dialled),
        &kernel,
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 512];
    // The kernel answers before sendto returns, so this does not block.
    let (length, sender) = recvfrom::<NetlinkAddr>(netlink.as_raw_fd(), &mut answer)?;
    if sender != Some(kernel) {
        return Err(Unowned::Kernel(Errno::EPROTO));
    }
    understood(answer.get(..length).unwrap_or_default()).unwrap_or(Err(Unowned::Kernel(Errno::EPROTO)))
}

/// Asks about a connection of this process, to find out before the first caller whether the kernel can tell.
pub fn try_out() -> std::io::Result<Owner> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let dialled = listener.local_addr()?;
    let client = TcpStream::connect(dialled)?;
    let owner = owner(client.local_addr()?, dialled).map_err(std::io::Error::other)?;
    if owner.uid == geteuid().as_raw() {
        Ok(owner)
    } else {
        let uid = owner.uid;
        Err(std::io::Error::other(format!(
            "sock_diag(7) gives uid {uid} for the daemon itself"
        )))
    }
}

/// `nlmsghdr` and `inet_diag_req_v2` for one TCP socket.
fn question(client: SocketAddr, dialled: SocketAddr) -> Vec<u8> {
    // A client may connect to an IPv4 listener with an IPv6 socket; the kernel finds it by its IPv4 address.
    let (source, destination) = (client.ip().to_canonical(), dialled.ip().to_canonical());
    let family = if source.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(72_u32.to_ne_bytes()); // nlmsg_len
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(1_u16.to_ne_bytes()); // NLM_F_REQUEST
    bytes.extend([0; 8]); // nlmsg_seq, nlmsg_pid
    bytes.extend([family, IPPROTO_TCP, 0, 0]); // idiag_ext, pad
    bytes.extend(u32::MAX.to_ne_bytes()); // idiag_states
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(dialled.port().to_be_bytes());
    bytes.extend(padded(source));
    bytes.extend(padded(destination));
    bytes.extend([0; 4]); // idiag_if
    bytes.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    bytes
}

/// Reads the answer; `None` if it is malformed or of another kind.
fn understood(message: &[u8]) -> Option<Result<Owner, Unowned>> {
    let (header, body) = message.split_at_checked(HEADER)?;
    let kind = u16::from_ne_bytes(header.get(4..6)?.try_into().ok()?);
    let word = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    if i32::from(kind) == NLMSG_ERROR {
        let error = Errno::from_raw(word(0)?.cast_signed().wrapping_neg());
        return Some(Err(if error == Errno::ENOENT {
            Unowned::Gone
        } else {
            Unowned::Kernel(error)
        }));
    }
    // struct inet_diag_msg: four bytes, the socket's identity (48 bytes), three words, then these.
    let (state, uid, inode) = (*body.get(1)?, word(64)?, word(68)?);
    let cgroup = attribute(body.get(ANSWER..)?, CGROUP_ID);
    let cgroup = cgroup.and_then(|value| Some(u64::from_ne_bytes(value.try_into().ok()?)));
    (kind == SOCK_DIAG_BY_FAMILY).then_some(if state == ESTABLISHED && inode != 0 {
        Ok(Owner { uid, cgroup })
    } else {
        Err(Unowned::Gone)
    })
}

/// The value of the first attribute of this kind. Each attribute is a `struct rtattr` and a value, padded to four bytes.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (head, rest) = attributes.split_at_checked(4)?;
        let half = |at: usize| Some(u16::from_ne_bytes(head.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(half(0)?).checked_sub(4)?, half(2)? & TYPE_MASK);
        if kind == wanted {
            return rest.get(..length);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// An address in the form of `struct inet_diag_sockid`: 16 bytes, an IPv4 address in the first four.
fn padded(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, Shutdown};

    use super::*;

    /// A connection's two addresses as its server sees them, with both ends.
    fn connection(listen: &str, dial: impl Fn(u16) -> SocketAddr) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(listen).unwrap();
        let client = TcpStream::connect(dial(listener.local_addr().unwrap().port())).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn owner_of(server: &TcpStream) -> Result<u32, Unowned> {
        owner(server.peer_addr().unwrap(), server.local_addr().unwrap()).map(|owner| owner.uid)
    }

    #[test]
    fn a_connected_client_is_named_by_every_address_it_may_come_from() {
        let us = geteuid().as_raw();
        let v4 = connection("127.0.0.1:0", |port| ([127, 0, 0, 1], port).into());
        assert_eq!(owner_of(&v4.1), Ok(us));
        let other = connection("127.0.0.1:0", |port| ([127, 0, 0, 1], port).into());
        assert_eq!(owner_of(&other.1), Ok(us));
        let v6 = connection("[::1]:0", |port| (Ipv6Addr::LOCALHOST, port).into());
        assert_eq!(owner_of(&v6.1), Ok(us));
        assert_eq!(try_out().unwrap().uid, us);
    }

    #[test]
    fn an_ipv6_socket_that_dials_an_ipv4_address_is_found() {
        let mapped = connection("127.0.0.1:0", |port| {
            (std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port).into()
        });
        assert!(mapped.0.local_addr().unwrap().is_ipv6());
        assert_eq!(owner_of(&mapped.1), Ok(geteuid().as_raw()));
    }

    #[test]
    fn a_client_that_closed_has_no_owner() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let (client, server) = connection(listen, |port| {
                SocketAddr::new(
                    listen.trim_end_matches(":0").trim_matches(['[', ']']).parse().unwrap(),
                    port,
                )
            });
            // FIN_WAIT2 with an inode, then without, then nothing or TIME_WAIT.
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(owner_of(&server), Err(Unowned::Gone));
            drop(client);
            assert_eq!(owner_of(&server), Err(Unowned::Gone));
            let (peer, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
            drop(server);
            assert_eq!(owner(peer, local).err(), Some(Unowned::Gone));
        }
    }

    #[test]
    fn a_listener_on_the_port_of_a_client_that_is_gone_is_not_the_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap();
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(owner(port, nobody).err(), Some(Unowned::Gone));
    }

    /// An answer about a connected socket of uid 1, with the attributes that are given.
    fn answer(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut answer = vec![0; HEADER];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer.extend([AF_INET, ESTABLISHED]);
        answer.resize(HEADER + ANSWER, 0);
        answer[HEADER + 64..HEADER + 72].copy_from_slice(&[1_u32.to_ne_bytes(), 2_u32.to_ne_bytes()].concat());
        for (kind, value) in attributes {
            let length = u16::try_from(value.len() + 4).unwrap();
            answer.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
            answer.extend(*value);
            answer.resize(answer.len().next_multiple_of(4), 0);
        }
        answer
    }

    #[test]
    fn an_answer_that_is_cut_short_or_of_another_kind_names_nobody() {
        let mut answer = answer(&[]);
        let uid_alone = Owner { uid: 1, cgroup: None };
        assert_eq!(understood(&answer), Some(Ok(uid_alone)));
        for length in 0..answer.len() {
            assert_eq!(understood(&answer[..length]), None, "{length}");
        }
        answer[4] = 3;
        assert_eq!(understood(&answer), None, "NLMSG_DONE");
    }

    #[test]
    fn the_cgroup_is_found_among_the_attributes_whole_or_not_at_all() {
        let id = 0x1_0000_0007_u64.to_ne_bytes();
        let cgroup = |answer: &[u8]| understood(answer).unwrap().unwrap().cgroup;
        let whole = answer(&[(8, &[0]), (22, &[0; 2]), (CGROUP_ID, &id), (15, &[0; 4])]);
        assert_eq!(cgroup(&whole), Some(0x1_0000_0007));
        let end = HEADER + ANSWER + 8 + 8 + 12;
        for length in HEADER + ANSWER..end {
            assert_eq!(cgroup(&whole[..length]), None, "{length}");
        }
        assert_eq!(cgroup(&whole[..end]), Some(0x1_0000_0007));
        for odd in [
            answer(&[(CGROUP_ID, &id[..4])]),
            answer(&[(CGROUP_ID, &[id, id].concat())]),
            [answer(&[]), vec![0, 0, 0, 0]].concat(),
        ] {
            assert_eq!(cgroup(&odd), None, "{odd:?}");
        }
    }
}
