from vnic.api.blocking import Baseline as Baseline
from vnic.api.blocking import Flap as Flap
from vnic.api.blocking import Guest as Guest
from vnic.api.blocking import Lab as Lab
from vnic.api.blocking import Nic as Nic
from vnic.api.blocking import Vm as Vm
from vnic.api.blocking import Vnic as Vnic
from vnic.api.blocking import connect as connect
from vnic.api.errors import CommandFailed as CommandFailed
from vnic.api.errors import GuestError as GuestError
from vnic.api.errors import NotSeen as NotSeen
from vnic.api.errors import Refused as Refused
from vnic.api.errors import VnicError as VnicError
from vnic.api.records import Cause as Cause
from vnic.api.records import Completed as Completed
from vnic.api.records import Hold as Hold
from vnic.api.records import LinkChange as LinkChange
from vnic.api.records import LinkInfo as LinkInfo
from vnic.api.records import Why as Why

__version__: str
