// A private endpoint for every service that the platform talks to, and the names that lead there.
param location string
param networkId string
param subnetId string
param storageAccountId string
param clusterId string
param workspaceId string
param vaultId string
param registryId string

var zones = [
  'privatelink.blob.${environment().suffixes.storage}'
  'privatelink.queue.${environment().suffixes.storage}'
  'privatelink.${location}.kusto.windows.net'
  'privatelink.api.azureml.ms'
  'privatelink.notebooks.azure.net'
  'privatelink.vaultcore.azure.net'
  'privatelink.azurecr.io'
]

// Zones by their place in the list above. A cluster's data is queued through storage accounts of its own.
var services = [
  { name: 'blob', id: storageAccountId, kind: 'blob', zones: [0] }
  { name: 'queue', id: storageAccountId, kind: 'queue', zones: [1] }
  { name: 'data-explorer', id: clusterId, kind: 'cluster', zones: [2, 0, 1] }
  { name: 'workspace', id: workspaceId, kind: 'amlworkspace', zones: [3, 4] }
  { name: 'vault', id: vaultId, kind: 'vault', zones: [5] }
  { name: 'registry', id: registryId, kind: 'registry', zones: [6] }
]

resource dnsZones 'Microsoft.Network/privateDnsZones@2024-06-01' = [for zone in zones: {
  name: zone
  location: 'global'
}]

resource links 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = [for (zone, place) in zones: {
  parent: dnsZones[place]
  name: 'network'
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: networkId
    }
  }
}]

resource endpoints 'Microsoft.Network/privateEndpoints@2024-07-01' = [for service in services: {
  name: 'pe-${service.name}'
  location: location
  properties: {
    subnet: {
      id: subnetId
    }
    privateLinkServiceConnections: [
      {
        name: service.name
        properties: {
          privateLinkServiceId: service.id
          groupIds: [service.kind]
        }
      }
    ]
  }
}]

resource names 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-07-01' = [for (service, place) in services: {
  parent: endpoints[place]
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [for zone in service.zones: {
      name: 'zone-${zone}'
      properties: {
        privateDnsZoneId: resourceId('Microsoft.Network/privateDnsZones', zones[zone])
      }
    }]
  }
  dependsOn: [
    dnsZones
  ]
}]
