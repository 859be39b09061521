#!/bin/busybox sh
# The guest's only program: loads the modules, brings the NICs up, then runs what the host sends over a serial line.
# The protocol is that of vnic/guest/console.py: "TOKEN\n", the lines of a script, "TOKEN\n"; the answer is the
# script's output, "\nTOKEN STATUS\n". When the host goes away the line ends, and the guest powers itself off.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/tmp

# VNIC_TTY comes from the kernel's command line.
exec <"/dev/$VNIC_TTY" >"/dev/$VNIC_TTY" 2>&1
stty raw -echo

for module in /modules/*.ko; do
  insmod "$module" || echo "insmod $module: status $?"
done
# Debian's kernel has fq_codel, which drops frames that have waited for 100 ms; here they wait as long as they must.
qdisc=/proc/sys/net/core/default_qdisc
[ -e "$qdisc" ] && echo pfifo_fast >"$qdisc"
ip link set lo up
for interface in /sys/class/net/eth*; do
  [ -e "$interface" ] || continue
  # An IPv6 address is of use at once, without the second that duplicate address detection takes.
  dad=/proc/sys/net/ipv6/conf/${interface##*/}/accept_dad
  [ -e "$dad" ] && echo 0 >"$dad"
  ip link set "${interface##*/}" up
done

# wait_carrier INTERFACE 0|1 SECONDS: returns as soon as the carrier is so, 1 when it is not in time.
# Between two looks lie 0.2 ms, so that the guest's CPU is not spent on looking.
wait_carrier() {
  read -r now _ </proc/uptime
  limit=$((${now%.*} + $3 + 1))
  while :; do
    read -r carrier 2>/dev/null <"/sys/class/net/$1/carrier"
    [ "$carrier" = "$2" ] && return 0
    read -r now _ </proc/uptime
    [ "${now%.*}" -ge "$limit" ] && return 1
    usleep 200
  done
}

# start_shell: a shell for a person, on the console $VNIC_SHELL; the guest ends with it.
start_shell() {
  # Whoever leads a session and opens a terminal has it as its own: job control and Ctrl-C work. Not by `&`: what a
  # script puts into the background ignores Ctrl-C for ever (POSIX sh, 2.11). `-p`: look for no other sh.
  start-stop-daemon -S -b -p /none -x /bin/sh -- \
    -c 'setsid sh -c "exec sh -i <>/dev/$VNIC_SHELL >&0 2>&1"; poweroff -f'
}

newline='
'
echo READY
while IFS= read -r token; do
  script=
  while IFS= read -r line && [ "$line" != "$token" ]; do
    script="$script$line$newline"
  done
  (eval "$script") </dev/null 2>&1
  printf '\n%s %d\n' "$token" $?
done
poweroff -f
