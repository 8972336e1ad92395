#!/bin/sh
# Makes an addon of the local cluster in the current folder: `addons.sh NAME` leaves `done/NAME`. Everything comes from the Go
# module proxy, named and summed by the go.mod and go.sum in `network`. Needs no root, and may be repeated after an interruption.
set -eu
name=$1
here=$PWD
export GOENV=off GOWORK=off GOTOOLCHAIN=local GOFLAGS="-mod=readonly -modcacherw" CGO_ENABLED=0
export GOPROXY="${GOPROXY:-$(go env GOPROXY | sed 's/,direct$//')}"
# Both go with the workshop, unless a person wants them elsewhere.
export GOMODCACHE="${GOMODCACHE:-$here/gomod}" GOCACHE="${GOCACHE:-$here/gocache}"

# The folder of a module's source, `MODULE@VERSION`, downloaded and summed.
source_of() {
    go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p'
}

# A copy of a module's source that may be changed.
copy_of() {
    rm -rf "$2"
    cp -r "$(source_of "$1")" "$2"
    chmod -R u+w "$2"
}

version_of() {
    sed -n "s#^[[:space:]]*\(require \)\?$1 v\([^ ]*\).*#\2#p" go.mod
}

# `build OUTPUT PACKAGE LINKER-FLAGS…`, with what whoever shows the progress reads.
build() {
    output=$1 package=$2
    shift 2
    echo "packages: $(go list -deps "$package" | wc -l)"
    echo "part: $name"
    go build -v -trimpath -ldflags "-s -w $*" -o "$output" "$package"
}

into=$here/unfinished
rm -rf "$into"
mkdir -p "$into" done
case $name in
coredns | kube-router | flannel)
    cd network
    flannel=github.com/flannel-io/flannel router=github.com/cloudnativelabs/kube-router/v2
    if [ ! -e copies.ok ]; then
        # One of its backends is for a cloud whose library the proxy has not, another needs a C compiler.
        copy_of "$flannel@v$(version_of $flannel)" flannel
        rm -r flannel/pkg/backend/tencentvpc flannel/pkg/backend/udp
        sed -i -e '\#backend/tencentvpc#d' -e '\#backend/udp#d' flannel/main.go
        sed -i /tencentcloud/d flannel/go.mod
        # In rules for IPv6 it forgets the prefix that its sets have there, and enforces nothing; and it denies neighbours that
        # look for each other.
        copy_of "$router@v$(version_of $router)" kube-router
        sed -i -E 's/"--match-set", (src|dst)IPSetName,/"--match-set", npc.ipSetHandlers[ipFamily].Name(\1IPSetName),/' \
            kube-router/pkg/controllers/netpol/policy.go
        sed -i '/rule for stateful firewall for pod/i if strings.Contains(ip, ":") { filterTableRules.WriteString("-I " + podFwChainName + " 1 -p icmpv6 -j ACCEPT\\n") }' \
            kube-router/pkg/controllers/netpol/pod.go
        touch copies.ok
    fi
    case $name in
    coredns) build "$into/coredns" ./coredns ;;
    kube-router)
        build "$into/kube-router" $router/cmd/kube-router -X "$router/pkg/version.Version=$(version_of $router)"
        ;;
    flannel) build "$into/flanneld" $flannel -X "$flannel/pkg/version.Version=$(version_of $flannel)" ;;
    esac
    ;;
*)
    echo "no such addon: $name" >&2
    exit 2
    ;;
esac
rm -rf "$here/done/$name"
mv "$into" "$here/done/$name"
